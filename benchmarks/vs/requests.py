"""Requests of many lengths at once, as a server gets them: the tokens/s of all of them together."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from benchmarks.common import append
from benchmarks.vs.compare import compare, started
from benchmarks.vs.protocol import Json, Side
from benchmarks.vs.questions import read_questions
from benchmarks.vs.sides import sampling_sides

WARM_REQUESTS, WARM_TOKENS = 16, 8  # before anything is timed


def lengths(count: int, least: int, most: int) -> list[int]:
    """Tokens of each answer, the same ones for all sides."""
    drawn = random.Random(count)
    return [drawn.randint(least, most) for _ in range(count)]


def requests(options: argparse.Namespace) -> None:
    """Questions with answers of different lengths, all asked for at once, with and without top-p: tokens/s."""
    asked = read_questions(str(options.policy), options.data, options.requests)
    prompts, caps = [each.prompt for each in asked], lengths(len(asked), options.least, options.most)
    with started(sampling_sides(options), options.isa) as sides:
        for top_p in options.top_p:
            case: Json = {
                "workload": "requests", "rows": len(asked), "top_p": top_p, "prompt_tokens": sum(map(len, prompts)),
                "tokens_each": [options.least, options.most], "model": options.policy.stem, "isa": options.isa,
            }  # fmt: skip
            print(f"{len(asked)} requests, {sum(caps)} tokens in all, top-p {top_p}", flush=True)

            def arguments(_: Side, run: int, top_p: float = top_p) -> Json:
                if run < 0:
                    return {"prompts": prompts[:WARM_REQUESTS], "caps": [WARM_TOKENS] * WARM_REQUESTS, "top_p": top_p}
                return {"prompts": prompts, "caps": caps, "top_p": top_p}

            records = compare(sides, "requests", options.runs, case, arguments, options.lock)
            if options.save:
                append("vs", records)


def add_options(command: argparse.ArgumentParser, data: Path) -> None:
    """What `requests` has beside what all commands have; data: where the questions are unless it is said."""
    command.add_argument("--requests", type=int, default=64)
    command.add_argument("--least", type=int, default=16, help="tokens of the shortest answer")
    command.add_argument("--most", type=int, default=192, help="tokens of the longest answer")
    command.add_argument("--data", type=Path, default=data, help="JSONL with id, problem, answer (or BRANCHWISE_DATA)")
    command.add_argument("--top-p", type=float, nargs="+", default=[0.95, 1.0])
    command.add_argument("--block", type=int, nargs="+", default=[32], help="vLLM's block sizes")
    command.set_defaults(command=requests, quantise=[])
