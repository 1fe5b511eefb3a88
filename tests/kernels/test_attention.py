"""Tree attention against float64 attention of every row over its own path."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from branchwise import _C
from tolerances import assert_close

from .trees import Tree, attention_reference, random_tree

LENGTHS = [1, 31, 32, 33, 255, 256, 257]


def run(tree: Tree, plan: _C.AttentionPlan, q: Tensor, scale: float, window: int = 0, softcap: float = 0.0) -> Tensor:
    out = torch.full_like(q, math.nan)
    _C.tree_attention(q, tree.pool, plan, out, tree.head_dim, scale, window, softcap)
    return out


def check(tree: Tree, nodes: list[int], counts: list[int], n_heads: int, window: int = 0, softcap: float = 0.0) -> None:
    plan = tree.plan(nodes, counts)
    q = torch.randn(plan.n_rows, n_heads * tree.head_dim).to(tree.dtype)
    scale = tree.head_dim**-0.5
    reference = attention_reference(tree, nodes, counts, plan.order.tolist(), q, scale, window, softcap)
    assert_close("tree_attention", run(tree, plan, q, scale, window, softcap), reference)


@pytest.mark.parametrize("head_dim", [8, 16, 64, 80, 96, 128, 256])
def test_head_dims(isa: str, dtype: torch.dtype, head_dim: int) -> None:
    torch.manual_seed(head_dim)
    tree = Tree(2, head_dim, dtype, n_blocks=64)
    root = tree.grow(None, 257)
    leaves = [tree.grow(root, length) for length in (1, 33, 70)]
    check(tree, leaves, [1, 5, 70], n_heads=6)


@pytest.mark.parametrize("group", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_groups(isa: str, dtype: torch.dtype, group: int) -> None:
    torch.manual_seed(group)
    tree = Tree(2, 16, dtype, n_blocks=64)
    root = tree.grow(None, 40)
    leaves = [tree.grow(root, length) for length in (1, 2, 35)]
    check(tree, leaves, [1, 1, 1], n_heads=2 * group)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize(("window", "softcap"), [(0, 0.0), (1, 0.0), (40, 0.0), (0, 5.0), (300, 30.0)])
def test_random_trees(isa: str, dtype: torch.dtype, levels: int, window: int, softcap: float) -> None:
    rng = np.random.default_rng(levels)
    torch.manual_seed(levels)
    tree = Tree(1, 16, dtype, n_blocks=512)
    leaves = random_tree(tree, LENGTHS, levels, rng)
    counts = [int(rng.integers(1, min(length, 20) + 1)) for length in map(tree.cache.length, leaves)]
    check(tree, leaves, counts, n_heads=2, window=window, softcap=softcap)


@pytest.mark.parametrize("length", LENGTHS)
def test_prefill(isa: str, length: int) -> None:
    tree = Tree(1, 32, torch.float32, n_blocks=16)
    check(tree, [tree.grow(None, length)], [length], n_heads=3)


def test_inner_nodes_decode_beside_leaves(isa: str) -> None:
    tree = Tree(2, 16, torch.float32)
    root = tree.grow(None, 50)
    child = tree.grow(root, 20)
    check(tree, [root, child, tree.grow(child, 3)], [4, 2, 1], n_heads=4)


@pytest.mark.parametrize("window", [0, 37])
def test_row_does_not_depend_on_the_batch(isa: str, dtype: torch.dtype, window: int) -> None:
    torch.manual_seed(0)
    tree = Tree(2, 64, dtype)
    root = tree.grow(None, 300)
    leaves = [tree.grow(root, length) for length in (1, 20, 33, 64, 5, 6, 7, 8, 9)]
    counts = [1, 3, 1, 40, 1, 1, 1, 1, 1]
    plan = tree.plan(leaves, counts)
    q = torch.randn(plan.n_rows, 14 * 64).to(dtype)
    together = run(tree, plan, q, 0.125, window)
    row = 0
    for index in plan.order.tolist():
        rows = slice(row, row + counts[index])
        alone = tree.plan([leaves[index]], [counts[index]], max_item_rows=7)
        assert torch.equal(run(tree, alone, q[rows].contiguous(), 0.125, window), together[rows])
        last = tree.plan([leaves[index]], [1])
        end = slice(rows.stop - 1, rows.stop)
        assert torch.equal(run(tree, last, q[end].contiguous(), 0.125, window), together[end])
        row = rows.stop


def test_threads_do_not_change_bits(isa: str, dtype: torch.dtype) -> None:
    tree = Tree(2, 64, dtype)
    root = tree.grow(None, 110)
    leaves = [tree.grow(root, 64) for _ in range(16)]
    plan = tree.plan(leaves, [1] * 16)
    q = torch.randn(plan.n_rows, 14 * 64).to(dtype)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(run(tree, plan, q, 0.125))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_memory_need_not_be_aligned(isa: str, dtype: torch.dtype) -> None:
    tree = Tree(2, 64, dtype, n_blocks=32)
    plan = tree.plan([tree.grow(tree.grow(None, 45), 33)], [33])
    q = torch.randn(plan.n_rows, 14 * 64).to(dtype)
    aligned = run(tree, plan, q, 0.125)
    room = torch.empty(tree.pool.numel() + 1, dtype=dtype)
    tree.pool = room[1:].view(tree.pool.shape).copy_(tree.pool)
    assert torch.equal(run(tree, plan, q, 0.125), aligned)


def test_wide_scores_stay_finite(isa: str) -> None:
    tree = Tree(1, 16, torch.float32)
    plan = tree.plan([tree.grow(None, 70)], [70])
    q = torch.randn(70, 16) * 1e4
    assert run(tree, plan, q, 1.0).isfinite().all()


def test_nan_shows(isa: str) -> None:
    tree = Tree(1, 16, torch.float32)
    plan = tree.plan([tree.grow(None, 5)], [1])
    assert run(tree, plan, torch.full((1, 16), math.nan), 1.0).isnan().all()


def test_mistakes() -> None:
    tree = Tree(2, 16, torch.float32, n_blocks=32)
    node = tree.grow(None, 600)
    plan = tree.plan([node], [2])
    q = torch.zeros(2, 64)
    with pytest.raises(ValueError, match=r"q has shape \[3, 64\]"):
        run(tree, plan, torch.zeros(3, 64), 1.0)
    with pytest.raises(ValueError, match="q is bfloat16, expected float32"):
        run(tree, plan, q.bfloat16(), 1.0)
    with pytest.raises(ValueError, match="3 heads and 2 kv heads"):
        run(tree, plan, torch.zeros(2, 48), 1.0)
    with pytest.raises(ValueError, match="chunk_slots <= 256"):
        run(tree, tree.plan([node], [2], chunk_slots=512), q, 1.0)
    with pytest.raises(ValueError, match="of a pool of 3"):
        _C.tree_attention(q, tree.pool[:3].contiguous(), plan, torch.empty_like(q), 16, 1.0)
    with pytest.raises(ValueError, match="window is -1"):
        run(tree, plan, q, 1.0, window=-1)
