"""KV for much less than searches might take: all of them end, and find what they find in plenty of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import branchwise as bw
from branchwise.engine.kv import KvCache, KvDemand
from branchwise.pair.pair import ModelPair
from branchwise.pair.room import Room
from branchwise.pair.tree import PairTree
from e2e.test_bundled_pair import facts
from e2e.test_service import steps

QUESTIONS = [f"{a}+{b}*{c}-{d}=?" for a, b, c, d in [(12, 3, 4, 5), (7, 8, 5, 20), (31, 4, 2, 9), (90, 4, 7, 11)]]
QUESTIONS += [f"({question[:-2]})*2+{place}=?" for place, question in enumerate(QUESTIONS * 3)]
CAPS = {"max_tokens": 300, "max_step_tokens": 100}
SEARCHES: list[tuple[str, dict[str, Any]]] = [("beam", {"expand": 4}), ("dvts", {"expand": 4}), ("best_of_n", {})]
CASES = [
    pytest.param(name, options, speculate, id=f"{name}-{speculate}", marks=[] if quick else pytest.mark.slow)
    for name, options in SEARCHES
    for speculate in (False, True)
    for quick in [(name, speculate) in (("beam", True), ("best_of_n", False))]
]


def caches(engine: bw.Engine) -> list[KvCache]:
    assert engine.judge is not None
    return [engine.policy.kv, engine.judge.kv]


def engine_of(blocks: int, **options: Any) -> bw.Engine:
    """With so many KV blocks in each cache."""
    block = 32 * sum(cache.slot_bytes for cache in PLENTY)
    return bw.Engine(kv_memory=blocks * block, **(CAPS | options))


PLENTY: list[KvCache] = []


@pytest.fixture(scope="module")
def plenty() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=256 << 20, **CAPS) as engine:
        PLENTY[:] = caches(engine)
        yield engine


def checked(engine: bw.Engine) -> None:
    for cache in caches(engine):
        cache.tree.check()
        assert cache.free_blocks == cache.n_blocks
    assert engine.pair.idle


def solved(engine: bw.Engine, name: str, options: dict[str, Any], count: int = 16) -> list[bw.Result]:
    """The first questions, all of them at once."""
    results = list(engine.solve_many(QUESTIONS[:count], name, n=16, max_in_flight=count, **options))
    checked(engine)
    errors = [result.error for result in results if result.error is not None]
    assert not errors, errors
    return results


def told(results: list[bw.Result]) -> dict[str, Any]:
    """What every question came to."""
    return {result.problem.text: facts(result) for result in results}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The most blocks that any tree has held; and nobody pauses the oldest tree that runs."""
    peaks: list[int] = []
    close, make, pause = ModelPair.close, Room.make, Room.pause
    running: list[PairTree] = []

    def closed(pair: ModelPair[Any], tree: PairTree) -> None:
        peaks.extend(lease.peak_blocks for lease in tree.leases)
        close(pair, tree)

    def made(room: Room, resting: Any, running_now: Any, *, of_judge: bool) -> bool:
        running[:] = running_now
        return make(room, resting, running_now, of_judge=of_judge)

    def paused(room: Room, tree: PairTree) -> None:
        assert tree is running[-1]
        assert tree is not running[0]
        pause(room, tree)

    monkeypatch.setattr(ModelPair, "close", closed)
    monkeypatch.setattr(Room, "make", made)
    monkeypatch.setattr(Room, "pause", paused)
    return peaks


@pytest.mark.parametrize(("name", "options", "speculate"), CASES)
def test_all_end_whatever_there_is(
    plenty: bw.Engine, watched: list[int], name: str, options: dict[str, Any], speculate: bool
) -> None:
    """Down to what the largest search holds by itself: the oldest one moves, so nothing waits for ever."""
    expected = told(solved(plenty, name, options, 8))
    peak = max(watched)
    rebuilt = pauses = 0
    for blocks in (peak, peak * 2):
        with engine_of(blocks, speculate=speculate) as engine:
            for cache in caches(engine):
                cache.share = 0.0  # nothing is expected of searches at first, so that too many begin
            results = solved(engine, name, options, 8)
            rebuilt += sum(result.cost.rebuilt_tokens for result in results)
            pauses += engine.pair._room.pauses
            assert told(results) == expected
    assert pauses > 0
    written = sum(len(tokens) for each in expected.values() for _, _, tokens, *_ in each["nodes"])
    assert 0 < rebuilt < 2 * written  # which either run writes


def test_a_third_of_the_worst_case(plenty: bw.Engine) -> None:
    """More rows are in use than if the worst case were reserved."""
    expected = told(solved(plenty, "beam", {"expand": 4}))
    worst = KvDemand(20, 16, 4, CAPS["max_tokens"], CAPS["max_step_tokens"], 40).blocks(32)
    iterations = []
    for reserved in (True, False):
        with engine_of(16 * worst // 3) as engine:
            for cache in caches(engine):
                if reserved:
                    cache.share, cache.learn = 1.0, lambda share: None  # type: ignore[method-assign]
            assert told(solved(engine, "beam", {"expand": 4})) == expected
            iterations.append(engine.policy.runner.stats.iterations)
    assert iterations[0] > 1.3 * iterations[1]


def test_trees_by_hand_make_room_while_they_rest(plenty: bw.Engine) -> None:
    """And grow on as if nothing had happened."""
    searched = facts(plenty.solve(QUESTIONS[5], "beam", n=16, expand=4))

    def grown(engine: bw.Engine, *, between: bool) -> list[Any]:
        trees = [engine.open(question, branches=8) for question in QUESTIONS[:4]]
        found = []
        for _ in range(3):
            for tree in trees:
                leaves = [node for node in tree.root.children if node.finish == "stop"] or [tree.root]
                groups = engine.expand_many([(tree, leaf, 4) for leaf in leaves[:2]], score=True)
                found += [steps(group) for group in groups]
            if between:
                assert facts(engine.solve(QUESTIONS[5], "beam", n=16, expand=4)) == searched
        rebuilt = 0
        for tree in trees:
            tree.close()
            rebuilt += tree.root.cost.rebuilt_tokens
        checked(engine)
        return [found, rebuilt > 0]

    with engine_of(60) as engine:
        assert grown(engine, between=True) == [grown(plenty, between=False)[0], True]


def test_what_never_fits_is_said_and_harms_nobody_else(plenty: bw.Engine) -> None:
    blocks = 40
    small = facts(plenty.solve(QUESTIONS[1], "majority", n=2))
    with engine_of(blocks) as engine:
        with pytest.raises(bw.OutOfMemory, match=rf"a prompt of \d+ tokens and {blocks} branches.* lower n: 39 is"):
            engine.solve(QUESTIONS[0], "majority", n=blocks)
        asked = [("majority", 2), ("majority", 38), ("best_of_n", 34), ("majority", 2)]
        tickets = [engine.submit(question, name, n=n) for question, (name, n) in zip(QUESTIONS, asked, strict=False)]
        tickets[3] = engine.submit(QUESTIONS[1], "majority", n=2)
        assert tickets[0].result().candidates
        for ticket in tickets[1:3]:
            with pytest.raises(
                bw.OutOfMemory, match=r"KV blocks are needed, \d+ of 40 are free, kv_memory is .* lower"
            ):
                ticket.result()
        assert facts(tickets[3].result()) == small
        with engine.open(QUESTIONS[0]) as tree:
            (kept,) = tree.expand(tree.root, 1)
            grow = tree.submit(tree.root, 39, stop="never", max_tokens=90)
            other = tree.submit(tree.root, 2)
            for ticket in (grow, other):
                with pytest.raises(bw.OutOfMemory, match="KV blocks are needed"):
                    ticket.result()
            assert tree.root.children == [kept]
            assert len(tree.expand(tree.root, 3, score=True)) == 3
        checked(engine)
        assert facts(engine.solve(QUESTIONS[1], "majority", n=2)) == small
