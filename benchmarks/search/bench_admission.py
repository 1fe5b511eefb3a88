"""Rows in use where KV is short: searches side by side with KV for a share of their worst case.

    PYTHONPATH=. python benchmarks/search/bench_admission.py --save
    PYTHONPATH=. python benchmarks/search/bench_admission.py --bundled --save

Replays a recording of beam searches (see `replay`), or runs the bundled pair on as many problems. The worst case of
a search is a path of `max_tokens` in 40 steps for each of the n / expand branches that go on, and a step for each of n.

how     "learned": a search begins when what those before it held on average fits;
        "reserved": when its worst case does, as if nothing were ever known; "all": at once
busy    share of the n rows of each problem that drew a token, mean of the policy's iterations
same    whether every step and score is what it is with KV in plenty
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import report
from benchmarks.engines import bundled_problems, checked
from benchmarks.search import replay
from benchmarks.search.bench_occupancy import RowCounter
from benchmarks.search.replay import Recording, replay_pair
from branchwise.api import Engine
from branchwise.engine.kv import KvCache, KvDemand
from branchwise.pair.pair import ModelPair
from branchwise.search.driver import run
from branchwise.search.service import Service
from branchwise.search.session import SearchOptions
from branchwise.strategies import make_strategy
from branchwise.tree import walk
from branchwise.types import Endings, Node, Problem, Sampling, Settings

RECORDED = Path(__file__).with_name("recorded_beam.json")
STEPS = 40  # of a path in the worst case
PLENTY = 1 << 14  # blocks


def worst_blocks(prompt: int, n: int, expand: int, max_tokens: int, size: int) -> int:
    """Of one search."""
    return KvDemand(prompt, n, n // expand, max_tokens, max_tokens, STEPS).blocks(size)


@contextmanager
def bundled_pair(blocks: int, options: argparse.Namespace) -> Iterator[tuple[ModelPair[Any], list[Problem], Settings]]:
    """The bundled models; answers of theirs end by themselves."""
    with Engine(kv_memory=1 << 20, threads=options.threads) as small:
        assert small.judge is not None
        size = sum(kv.slot_bytes * kv.block_slots for kv in (small.policy.kv, small.judge.kv))
    with Engine(kv_memory=blocks * size, threads=options.threads) as engine:
        problems = bundled_problems(options.problems)
        yield engine.pair, problems, engine._settings({"max_tokens": options.max_tokens}, 0)


@contextmanager
def replayed_pair(blocks: int, options: argparse.Namespace) -> Iterator[tuple[ModelPair[Any], list[Problem], Settings]]:
    """A recording, whose models compute nothing."""
    before, replay.ROOM = replay.ROOM, blocks
    recording = Recording(json.loads(options.recording.read_text())["problems"][: options.problems])
    try:
        pair = replay_pair(recording, max_rows=options.n * options.problems)
    finally:
        replay.ROOM = before
    yield pair, recording.problems, Settings(Sampling(), Endings(), options.max_tokens, options.max_tokens)


class Blind(KvCache):
    """Learns nothing."""

    def learn(self, share: float) -> None: ...


def admit(pair: ModelPair[Any], how: str) -> None:
    """Let it decide otherwise than by what it has seen."""
    if how != "learned":
        for cache in (pair.policy.kv, pair.judge.kv):
            cache.__class__ = Blind
            cache.share = {"reserved": 1.0, "all": 0.0}[how]


def bits(node: Node) -> tuple[Any, ...]:
    return node.lineage_path, tuple(node.tokens), node.logprob, node.score


def measured(options: argparse.Namespace, share: float, how: str, expected: dict[str, Any]) -> dict[str, Any]:
    """One run of all problems; the first one of all, in plenty of KV, says what is right."""
    strategy = make_strategy("beam", n=options.n, expand=options.expand)
    worst = worst_blocks(options.prompt, options.n, options.expand, options.max_tokens, 32)
    blocks = PLENTY if share == 0 else max(1, int(options.problems * worst * share))
    opened = bundled_pair if options.bundled else replayed_pair
    with opened(blocks, options) as (pair, problems, settings):
        admit(pair, how)
        counter = RowCounter(pair)
        begin = time.perf_counter()
        results = checked(run(problems, Service(pair), SearchOptions(strategy, settings), max_in_flight=len(problems)))
        seconds = time.perf_counter() - begin
        pauses = pair._room.pauses
    found = {result.problem.id: [bits(node) for node in walk(result.tree)] for result in results}
    expected.update({} if expected else found)
    rows = options.n * len(problems)
    return {
        "bench": "admission", "models": "bundled" if options.bundled else options.recording.name,
        "problems": len(results), "n": options.n, "expand": options.expand, "max_tokens": options.max_tokens,
        "blocks": blocks, "of_worst_case": round(share, 3) or None, "how": how,
        "iterations": len(counter.rows), "tokens": sum(counter.rows),
        "busy": round(sum(counter.rows) / len(counter.rows) / rows, 4),
        "rebuilt_tokens": sum(result.cost.rebuilt_tokens for result in results),
        "pauses": pauses, "prm_rows": sum(counter.passes), "seconds": round(seconds, 2), "same": found == expected,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundled", action="store_true")
    parser.add_argument("--recording", type=Path, default=RECORDED)
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--expand", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=300)
    parser.add_argument("--prompt", type=int, default=80, help="tokens, of the worst case")
    parser.add_argument("--share", type=float, nargs="+", default=[1 / 3, 1 / 10, 1 / 20])
    parser.add_argument("--how", nargs="+", default=["reserved", "learned", "all"])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--quick", action="store_true", help="two problems, and KV for a third of them")
    options = parser.parse_args()
    if options.quick:
        options.problems, options.share, options.save = 2, [1 / 3], False
    expected: dict[str, Any] = {}
    runs = [(0.0, "all"), *((share, how) for share in options.share for how in options.how)]
    report("admission", (measured(options, share, how, expected) for share, how in runs), options.save)


if __name__ == "__main__":
    main()
