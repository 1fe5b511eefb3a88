"""What admission reserves for a search is enough, and no more than it may need: the bound, and searches within it."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import branchwise as bw
from branchwise import _C
from branchwise.engine.kv import KvCache, KvDemand
from branchwise.errors import OutOfMemory
from branchwise.strategies import Limits, make_strategy
from e2e.test_bundled_pair import facts

SIZE = 32
QUESTIONS = ["12+3*4-5+60=?", "7*8+5-20=?", "(31+4)*2-9=?", "90-4*7+11=?"]


def grown(demand: KvDemand, group: int, expand: int, lengths: random.Random) -> int:
    """The most blocks that a search by levels holds: steps of any length, any of them kept, as in `LevelSearch`."""
    tree = _C.KvTree(5000, SIZE)
    root = tree.add_root()
    tree.append(root, demand.prompt)
    tree.seal(root)
    longest = lengths.random() < 0.5
    groups = [[(root, 0, group)] for _ in range(demand.branches // group)]  # (parent, tokens of its path, children)
    most, holds_root = 0, True
    for _ in range(demand.steps):
        level = []
        for parents in groups:
            level.append([])
            for parent, used, count in parents:
                for child in tree.fork(parent, count):
                    room = min(demand.step_tokens, demand.tokens - used)
                    length = room if longest else lengths.randint(1, room)
                    tree.append(child, length)
                    level[-1].append((child, used + length))
                if parent != root:
                    tree.prune(parent)
        if holds_root:
            tree.prune(root)
            holds_root = False
        most = max(most, tree.n_blocks - tree.n_free_blocks)
        groups = []
        for children in level:
            alive = [child for child in children if child[1] < demand.tokens]
            kept = lengths.sample(alive, min(len(alive), max(1, len(alive) // expand)))
            for child, _ in children:
                tree.seal(child)
                if all(child != other for other, _ in kept):
                    tree.prune(child)
            cuts = [len(alive) * i // len(kept) for i in range(len(kept) + 1)] if kept else []
            groups.append([(*each, end - begin) for each, (begin, end) in zip(kept, pairwise(cuts), strict=True)])
    return most


@given(
    st.sampled_from([(4, 4, 4), (16, 16, 4), (16, 4, 4), (12, 12, 3), (8, 2, 2), (6, 6, 6)]),
    st.integers(1, 100),
    st.integers(1, 300),
    st.integers(1, 120),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
)
def test_a_search_by_levels_stays_within_its_demand(
    shape: tuple[int, int, int], prompt: int, tokens: int, step: int, steps: int, lengths: random.Random
) -> None:
    n, group, expand = shape
    demand = KvDemand(prompt, n, n // expand, tokens, step, steps)
    assert grown(demand, group, expand, lengths) <= demand.blocks(SIZE)


def test_the_demand_of_pruned_branches_is_a_step() -> None:
    paths, pruned = (KvDemand(100, 16, kept, 512, 128, 12).blocks(SIZE) for kept in (16, 4))
    assert paths == 5 + 16 * (16 + 12)
    assert pruned == 5 + 4 * (16 + 12) + 16 * 5


@given(st.sampled_from([(16, 16), (16, 4), (8, 1), (12, 3)]), st.integers(1, 2000))
def test_the_largest_n_that_fits(shape: tuple[int, int], blocks: int) -> None:
    ratio = shape[0] // shape[1]
    most = KvDemand(70, *shape, 300, 64, 9).most_branches(SIZE, blocks)
    assert most % ratio == 0
    fits = [KvDemand(70, n, n // ratio, 300, 64, 9).blocks(SIZE) <= blocks for n in (most or ratio, most + ratio)]
    assert fits == [most > 0, False]


@pytest.fixture(scope="module")
def plenty() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=256 << 20, max_tokens=300, max_step_tokens=48) as engine:
        yield engine


@pytest.mark.parametrize("speculate", [False, True])
@pytest.mark.parametrize("name", ["beam", "dvts", "best_of_n"])
def test_searches_run_in_what_is_reserved_for_one(plenty: bw.Engine, name: str, speculate: bool) -> None:
    """In the least memory that one search is admitted to, problems find what they find in plenty of it."""
    options = {"n": 16} | ({} if name == "best_of_n" else {"expand": 4})
    demand = make_strategy(name, **options).demand(Limits(300, 48))
    settings = bw.types.Settings(max_tokens=300, max_step_tokens=48)
    tree = plenty.pair.open(bw.Problem("a", max(QUESTIONS, key=len)), demand, settings)
    assert tree is not None
    assert tree.judge is not None
    blocks = max(tree.policy.reserved_blocks, tree.judge.reserved_blocks)
    plenty.pair.close(tree)
    least = blocks * sum(map(bytes_of, caches(plenty)))
    with bw.Engine(kv_memory=least, max_tokens=300, max_step_tokens=48, speculate=speculate) as engine:
        assert [cache.n_blocks for cache in caches(engine)] == [blocks, blocks]
        found = {each.problem.id: each for each in engine.solve_many(QUESTIONS, name, max_in_flight=4, **options)}
        for result in plenty.solve_many(QUESTIONS, name, **options):
            assert facts(found[result.problem.id])["nodes"] == facts(result)["nodes"]


def caches(engine: bw.Engine) -> list[KvCache]:
    assert engine.judge is not None
    return [engine.policy.kv, engine.judge.kv]


def bytes_of(cache: KvCache) -> int:
    return cache.slot_bytes * cache.block_slots


def test_the_memory_that_a_refusal_asks_for_is_enough() -> None:
    options = {"max_tokens": 300, "max_step_tokens": 48}
    with bw.Engine(kv_memory=2 << 20, **options) as engine, pytest.raises(OutOfMemory) as refusal:
        engine.solve(QUESTIONS[0], "beam", n=16, expand=4)
    asked = re.search(r"needs kv_memory of about ([\d.]+) MiB, it is 2.0 MiB: raise it", str(refusal.value))
    assert asked
    with bw.Engine(kv_memory=int((float(asked[1]) + 0.05) * 2**20), **options) as engine:
        assert engine.solve(QUESTIONS[0], "beam", n=16, expand=4).candidates
