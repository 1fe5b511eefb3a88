"""Rows in use over a run with several problems in flight, from a search of real models, or from a recording of one.

    PYTHONPATH=. python benchmarks/search/bench_occupancy.py --problems gsm8k.jsonl --limit 40 --record steps.json
    PYTHONPATH=. python benchmarks/search/bench_occupancy.py --replay steps.json --rows 32 48 64 --save

Occupancy: rows that decoded a token, over rows that could have (`--rows` in every iteration of the policy), from the
first iteration to the last. `busy` leaves out the drain: the iterations after the last problem was taken, when there
was nothing left to put into a free row. An iteration that feeds prompts but draws nothing counts as empty; one that
draws more than `--rows` tokens counts as full. Passes of the PRM are no iterations of the policy.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import append
from benchmarks.options import load_problems, open_engine, parse_search, search_parser
from benchmarks.search.replay import Recording, record, replay_engine, save_recording
from branchwise.search.driver import run
from branchwise.search.scored_engine import ScoredEngine
from branchwise.strategies.registry import make_strategy
from branchwise.types import Problem, Result, Strategy


class RowCounter:
    """Rows that drew a token in every iteration of an engine's policy, and when its problems ran out."""

    def __init__(self, engine: ScoredEngine) -> None:
        self.rows: list[int] = []
        self.passes: list[int] = []
        self.last_taken = 0  # iterations before the last problem was taken
        steps, scorer = engine.engine, engine.judge
        assert scorer is not None
        draw, poll, forward = steps.sampler.draw, steps.poll, scorer.runner.forward

        def draw_counted(hidden: Any, draws: Any) -> Any:
            self.rows[-1] = len(draws)
            return draw(hidden, draws)

        def poll_counted() -> Any:
            self.rows.append(0)
            return poll()

        def forward_counted(feeds: Any) -> Any:
            self.passes.append(sum(len(feed.tokens) for feed in feeds))
            return forward(feeds)

        steps.sampler.draw = draw_counted  # type: ignore[method-assign]
        steps.poll = poll_counted  # type: ignore[method-assign]
        scorer.runner.forward = forward_counted  # type: ignore[method-assign]

    def taking(self, problems: Iterable[Problem]) -> Iterator[Problem]:
        """The problems, noting when the last one is taken."""
        for problem in problems:
            self.last_taken = len(self.rows)
            yield problem

    def shares(self, max_rows: int) -> tuple[float, float]:
        """Occupancy over the whole run, and while there were problems to take."""
        used = [min(rows, max_rows) / max_rows for rows in self.rows]
        busy = used[: self.last_taken] or used
        return sum(used) / len(used), sum(busy) / len(busy)


def search(
    engine: ScoredEngine, problems: list[Problem], strategy: Strategy, in_flight: int, max_rows: int
) -> tuple[list[Result], dict[str, Any]]:
    """Solve all problems; the results and what the rows did."""
    counter = RowCounter(engine)
    results = list(run(counter.taking(problems), strategy, engine, max_in_flight=in_flight))
    whole, busy = counter.shares(max_rows)
    return results, {
        "bench": "occupancy",
        "strategy": strategy.name,
        "n": strategy.n,
        "problems": len(results),
        "in_flight": in_flight,
        "max_rows": max_rows,
        "iterations": len(counter.rows),
        "iterations_before_drain": counter.last_taken,
        "tokens": sum(counter.rows),
        "occupancy": round(whole, 4),
        "occupancy_busy": round(busy, 4),
        "prm_passes": len(counter.passes),
        "prm_rows_mean": round(sum(counter.passes) / len(counter.passes), 1),
    }


def live(options: argparse.Namespace, strategy: Strategy) -> list[dict[str, Any]]:
    """With the models; `--record` keeps the trees."""
    with open_engine(options, max_rows=options.rows[0]) as engine:
        results, counts = search(
            engine.backend, load_problems(options), strategy, options.in_flight[0], options.rows[0]
        )
        if options.record:
            save_recording(options.record, options, record(engine, results))
    return [counts]


def repeated(problems: list[dict[str, Any]], times: int) -> list[dict[str, Any]]:
    """A longer run of the same step lengths: every problem so many times, each under a name of its own."""
    return [problem | {"id": f"{problem['id']}, {time}"} for time in range(times) for problem in problems]


def replayed(options: argparse.Namespace) -> list[dict[str, Any]]:
    """From a recording, for every number of rows and of problems in flight."""
    entry = json.loads(options.replay.read_text())
    strategy = make_strategy(entry["strategy"], n=entry["n"], expand=entry["expand"])
    recording = Recording(repeated(entry["problems"], options.repeat))
    records = []
    for rows in options.rows:
        for in_flight in options.in_flight:
            engine = replay_engine(recording, max_rows=rows, speculate=options.speculate)
            _, counts = search(engine, recording.problems, strategy, in_flight, rows)
            about = {"recording": options.replay.name, "repeat": options.repeat, "speculate": options.speculate}
            records.append(counts | about)
    return records


def main() -> None:
    parser = search_parser(__doc__, "occupancy")
    parser.add_argument("--rows", type=int, nargs="+", default=[64])
    parser.add_argument("--in-flight", type=int, nargs="+", default=[8])
    parser.add_argument("--record", type=Path, help="keep the trees of the search in this file")
    parser.add_argument("--replay", type=Path, help="replay such a file")
    parser.add_argument("--repeat", type=int, default=1, help="replay the recorded problems so many times over")
    parser.add_argument("--speculate", action="store_true")
    options = parse_search(parser)
    strategy = make_strategy(options.strategy, n=options.n, expand=options.expand)
    records = replayed(options) if options.replay else live(options, strategy)
    for each in records:
        print(json.dumps(each), flush=True)
    if options.save:
        append("occupancy", records)


if __name__ == "__main__":
    main()
