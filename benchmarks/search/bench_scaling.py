"""Cost per accepted token against N, prompt length, number of steps and problems in flight: beam search, M = 4.

    PYTHONPATH=. python benchmarks/search/bench_scaling.py --curves n prompt steps in_flight --save
    PYTHONPATH=. python benchmarks/search/plot_scaling.py

Every step has `--step-tokens` tokens and every branch all steps, so that the points of a curve differ in one thing
only; what is drawn, and how the PRM judges it, is real. Accepted tokens are those of steps that were continued or
finished. Seconds are of the whole search, prompts included, told apart by policy, PRM and all else: medians of runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import branchwise as bw
from benchmarks.common import append
from benchmarks.engines import checked
from benchmarks.options import model_parser, open_engine, parse_search, search_options
from branchwise import _C
from branchwise.strategies import BeamSearch
from branchwise.tree import walk
from branchwise.types import Problem, Result

WORDS = "Tom has some apples and buys more of them every day, so that by the end of the week there are many. "


@dataclass(frozen=True, slots=True)
class Point:
    """What a search has to do; a curve varies one field."""

    n: int = 16
    prompt: int = 100  # tokens, of policy and PRM alike
    steps: int = 3
    in_flight: int = 1


CURVES: dict[str, list[Point]] = {
    "n": [Point(n=n) for n in (1, 4, 16, 64, 256)],
    "prompt": [Point(prompt=tokens) for tokens in (100, 500, 1000, 2000, 4000)],
    "steps": [Point(steps=steps) for steps in (1, 2, 4, 8, 16)],
    "in_flight": [Point(n=4, in_flight=count) for count in (1, 2, 4, 8, 16, 32)],
}
QUICK = {name: points[:2] for name, points in CURVES.items()} | {
    "prompt": [Point(prompt=tokens) for tokens in (50, 100)]
}


class FixedSteps:
    """Stands in for the step detector: every step has the same number of tokens."""

    start = 0

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def advance(self, state: int, token: int) -> tuple[int, bool]:
        return (0, True) if state + 1 == self.tokens else (state + 1, False)


@dataclass(slots=True)
class Seconds:
    """Time in the policy's iterations and in the PRM."""

    policy: float = 0.0
    prm: float = 0.0

    def watch(self, engine: bw.Engine) -> None:
        """Measure an engine from now on."""
        assert engine.judge is not None
        engine.policy.poll = self._timed("policy", engine.policy.poll)  # type: ignore[method-assign]
        engine.judge.poll = self._timed("prm", engine.judge.poll)  # type: ignore[method-assign]

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(**arguments: Any) -> Any:
            begin = time.perf_counter()
            result = function(**arguments)
            setattr(self, name, getattr(self, name) + time.perf_counter() - begin)
            return result

        return timed


def problems_of(engine: bw.Engine, point: Point, run: int) -> list[Problem]:
    """As many problems as are in flight, each under a prompt of the wanted length, no two of them alike."""
    encode = engine.policy.tokenizer.encode
    repeated = WORDS * (point.prompt // 8 + 2)
    ids = encode(repeated)[: point.prompt - 4]
    text = engine.policy.tokenizer.decode(ids)
    marks = [f"{run}-{index}" for index in range(point.in_flight)]
    return [Problem(mark, f"{mark} {text}", prompt=(encode(mark) + ids)[: point.prompt]) for mark in marks]


def accepted_tokens(results: list[Result]) -> int:
    """Tokens of steps that were continued or finished."""
    steps = [node for result in results for node in list(walk(result.tree))[1:]]
    return sum(len(node.tokens) for node in steps if not node.pruned)


def bench(engine: bw.Engine, point: Point, seconds: Seconds, run: int) -> dict[str, float]:
    """One search."""
    strategy = BeamSearch(n=point.n, expand=min(4, point.n), max_steps=point.steps)
    problems = problems_of(engine, point, run)
    seconds.policy = seconds.prm = 0.0
    begin = time.perf_counter()
    results = checked(engine.solve_many(problems, strategy, max_in_flight=point.in_flight))
    whole = time.perf_counter() - begin
    accepted = accepted_tokens(results)
    generated = sum(result.cost.generated_tokens for result in results)
    per_token = 1e3 / accepted
    return {
        "accepted_tokens": accepted,
        "generated_tokens": generated,
        "prm_tokens": sum(result.cost.prm_tokens for result in results),
        "ms_per_accepted_token": round(whole * per_token, 4),
        "policy_ms": round(seconds.policy * per_token, 4),
        "prm_ms": round(seconds.prm * per_token, 4),
        "ms_per_generated_token": round(whole * 1e3 / generated, 4),
    }


def points(options: argparse.Namespace) -> Iterator[tuple[str, Point]]:
    """The points of all wanted curves, cheap ones first."""
    for curve in options.curves:
        yield from ((curve, point) for point in (QUICK if options.quick else CURVES)[curve])


def main() -> None:
    parser = model_parser(__doc__, "scaling")
    search_options(parser)
    parser.add_argument("--curves", nargs="+", choices=list(CURVES), default=list(CURVES))
    parser.add_argument("--step-tokens", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    options = parse_search(parser)
    if options.quick:
        options.runs = 1
    group, records, seconds = f"scaling-{time.time_ns() // 1_000_000}", [], Seconds()
    with open_engine(options) as engine:
        engine.policy.tokenizer.eos_ids = frozenset()
        steps: Any = FixedSteps(options.step_tokens)
        engine.policy.detectors["\n\n"] = steps  # type: ignore[assignment]
        seconds.watch(engine)
        bench(engine, replace(Point(), in_flight=2), seconds, -1)  # warm-up
        for curve, point in points(options):
            runs = [bench(engine, point, seconds, run) for run in range(options.runs)]
            median = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
            fields = {name: getattr(point, name) for name in Point.__dataclass_fields__}
            about = {"step_tokens": options.step_tokens, "runs": options.runs, "policy": Path(options.policy).stem}
            about |= {
                "prm": Path(options.prm).stem,
                "dtype": engine.resolved.dtype,
                "weights": options.weights,
                "isa": _C.isa(),
            }
            about |= {"threads": torch.get_num_threads()}
            records.append({"bench": "scaling", "group": group, "curve": curve, **fields, **median, **about})
            print(json.dumps(records[-1]), flush=True)
    if options.save:
        append("scaling", records)


if __name__ == "__main__":
    main()
