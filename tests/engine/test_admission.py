"""What a search may take at the longest is a bound, and what it is expected to take follows those before it."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from branchwise import _C
from branchwise.backend.cpu.backend import CpuBackend
from branchwise.engine.kv import FIRST_SHARE, KvCache, KvDemand, Lease

SIZE = 32


def grown(demand: KvDemand, group: int, expand: int, lengths: random.Random) -> int:
    """The most blocks that a search by levels holds: steps of any length, any of them kept, as in `LevelSearch`."""
    tree = _C.KvTree(5000, SIZE)
    root = tree.add_root()
    tree.append(root, demand.prompt)
    tree.seal(root)
    longest = lengths.random() < 0.5
    groups = [[(root, 0, group)] for _ in range(demand.branches // group)]  # (parent, tokens of its path, children)
    most, holds_root = 0, True
    for _ in range(demand.steps or 0):
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


@given(st.integers(1, 64), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 70)), max_size=30))
def test_a_lease_counts_what_its_steps_fill(size: int, changes: list[tuple[int, int]]) -> None:
    learned: list[float] = []
    cache = SimpleNamespace(block_slots=size, share=0.5, learn=learned.append)
    lease = Lease(cast(Any, cache), prompt=3, longest=101)
    lengths, most_blocks, most_tokens = [0] * 6, 0, 0
    held: list[int] = []  # blocks, once for each token that is fed
    for step, length in changes:
        lease.resize(lengths[step], length)
        held += [lease.blocks] * (length - lengths[step])
        lengths[step] = length
        assert lease.tokens == sum(lengths)
        assert lease.blocks == sum(-(-each // size) for each in lengths)
        most_blocks, most_tokens = max(most_blocks, lease.blocks), max(most_tokens, lease.tokens)
        assert (lease.peak_blocks, lease.peak_tokens) == (most_blocks, most_tokens)
    assert lease.expected == 3 + 51
    lease.learn()
    assert learned == ([min(1.0, max(0.0, sum(held) / len(held) - 3) / 101)] if held else [])


def test_what_is_expected_of_a_tree_follows_those_that_ended() -> None:
    model = SimpleNamespace(n_layers=1, n_kv_heads=1, head_dim=8)
    cache = KvCache(cast(Any, model), 9, torch.float32, CpuBackend())
    assert Lease(cache, 2, 100).expected == 2 + math.ceil(100 * FIRST_SHARE)
    for _ in range(60):
        Lease(cache, 7, 100, fed=10, fed_blocks=470).learn()
    assert Lease(cache, 1, 200).expected == pytest.approx(81, abs=1)
    Lease(cache, 9, 0, fed=1, fed_blocks=19).learn()  # a tree grown by hand says nothing of searches
    assert Lease(cache, 9, 0).expected == 9
    assert cache.share == pytest.approx(0.4, abs=0.01)
