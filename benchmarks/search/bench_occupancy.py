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
from typing import Any, cast

from benchmarks.common import append
from benchmarks.engines import checked
from benchmarks.options import load_problems, open_engine, parse_search, search_parser
from benchmarks.search.replay import SETTINGS, Recording, record, replay_pair, save_recording
from branchwise.pair.pair import ModelPair
from branchwise.search.driver import run
from branchwise.search.service import Service
from branchwise.search.session import SearchOptions
from branchwise.strategies import Strategy, make_strategy
from branchwise.types import Problem, Result, Settings


class RowCounter:
    """Rows that drew a token in every iteration of a pair's policy, and when its problems ran out."""

    def __init__(self, pair: ModelPair) -> None:
        self.rows: list[int] = []
        self.passes: list[int] = []
        self.last_taken = 0  # iterations before the last problem was taken
        policy: Any = pair.policy
        runner = cast(Any, pair.judge).runner
        draw, poll, forward = policy.sampler.draw, policy.poll, runner.forward

        def draw_counted(hidden: Any, draws: Any) -> Any:
            self.rows[-1] = len(draws)
            return draw(hidden, draws)

        def poll_counted() -> Any:
            self.rows.append(0)
            return poll()

        def forward_counted(feeds: Any) -> Any:
            self.passes.append(sum(len(feed.tokens) for feed in feeds))
            return forward(feeds)

        policy.sampler.draw, policy.poll, runner.forward = draw_counted, poll_counted, forward_counted

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
    pair: ModelPair, problems: list[Problem], options: SearchOptions, in_flight: int, max_rows: int
) -> tuple[list[Result], dict[str, Any]]:
    """Solve all problems; the results and what the rows did."""
    counter, strategy = RowCounter(pair), options.strategy
    results = checked(run(counter.taking(problems), Service(pair), options, max_in_flight=in_flight))
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
        how = SearchOptions(strategy, Settings(max_tokens=options.max_tokens, reuse=False))
        results, counts = search(engine.pair, load_problems(options), how, options.in_flight[0], options.rows[0])
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
            pair = replay_pair(recording, max_rows=rows, speculate=options.speculate)
            _, counts = search(pair, recording.problems, SearchOptions(strategy, SETTINGS), in_flight, rows)
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
