"""Tree attention with its merge, against float64 attention of every row over its own path."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from branchwise import _C
from branchwise_kernels import reference
from branchwise_kernels import tree_attention as tree_attention_module
from branchwise_kernels.layout import PAGE, DevicePlan, empty_plan, large_tile, size_of, update
from branchwise_kernels.merge_states import merge_states
from branchwise_kernels.row_attention import row_attention
from branchwise_kernels.tree_attention import tree_attention
from kernels.trees import attention_reference, random_tree
from kernels_interp.harness.guard import Guard
from kernels_interp.harness.verify import poisoned, rel_l2, verify
from kernels_interp.trees import PagedTree, rows_of
from tolerances import KERNEL_REL_L2

F32 = torch.float32


def planned(tree: PagedTree, nodes: list[int], counts: list[int], chunk: int = 512) -> _C.AttentionPlan:
    planner = _C.Planner(tree.cache, chunk_slots=chunk)
    return planner.build(np.array(nodes, np.int64), np.array(counts, np.int32))


def attend(
    q, pool, plan: DevicePlan, partials: int, n_heads: int, head_dim: int, window: int = 0, softcap: float = 0.0
):
    """Partials and output, poisoned first."""
    parts = (
        poisoned(partials, n_heads, head_dim, dtype=F32),
        poisoned(partials, n_heads, dtype=F32),
        poisoned(partials, n_heads, dtype=F32),
    )
    out = poisoned(*q.shape, dtype=q.dtype)
    tree_attention(q, pool, plan, *parts, n_heads, head_dim**-0.5, window, softcap)
    merge_states(*parts, plan, out)
    return (out,)


def check(
    tree: PagedTree, nodes, counts, n_heads: int, window: int = 0, softcap: float = 0.0, chunk: int = 512
) -> None:
    host = planned(tree, nodes, counts, chunk)
    q = torch.randn(host.n_rows, n_heads * tree.head_dim).to(tree.dtype)
    scale = tree.head_dim**-0.5
    wanted = attention_reference(tree, nodes, counts, host.order.tolist(), q, scale, window, softcap)
    plan = tree.device_plan(host, n_heads)
    rows = poisoned(*q.shape, dtype=q.dtype)
    with Guard():
        row_attention(q, tree.pool, plan, rows, n_heads, scale, window, softcap)
    assert rel_l2(rows, wanted) <= KERNEL_REL_L2[tree.dtype]
    run = lambda: attend(q, tree.pool, plan, host.n_partials, n_heads, tree.head_dim, window, softcap)  # noqa: E731
    verify(run, [wanted], tree.dtype)


@pytest.mark.parametrize("head_dim", [16, 32, 64, 80, 96, 128, 256])
def test_head_dims(dtype, head_dim):
    torch.manual_seed(head_dim)
    tree = PagedTree(16, 2, head_dim, dtype)
    root = tree.grow(None, 257)
    leaves = [tree.grow(root, length) for length in (1, 33, 70)]
    check(tree, leaves, [1, 2, 9], n_heads=4)


@pytest.mark.parametrize(
    ("n_heads", "n_kv_heads"), [(1, 1), (4, 4), (2, 1), (6, 2), (4, 1), (5, 1), (6, 1), (14, 2), (8, 1)]
)
def test_groups_of_query_heads(dtype, n_heads, n_kv_heads):
    torch.manual_seed(n_heads)
    tree = PagedTree(16, n_kv_heads, 16, dtype)
    root = tree.grow(None, 65)
    leaves = [tree.grow(root, length) for length in (64, 3, 3)]
    check(tree, leaves, [1, 3, 1], n_heads=n_heads)


@pytest.mark.parametrize(("window", "softcap"), [(1, 0.0), (60, 0.0), (70, 5.0), (0, 2.0)])
def test_window_and_softcap(dtype, window, softcap):
    torch.manual_seed(window)
    tree = PagedTree(16, 1, 16, dtype)
    root = tree.grow(None, 200)
    leaves = [tree.grow(root, length) for length in (1, 66)]
    check(tree, leaves, [1, 4], n_heads=2, window=window, softcap=softcap)


@pytest.mark.parametrize("seed", range(4))
def test_random_trees_with_ragged_pages(dtype, seed):
    """1 to 4 levels, several chunks a node, one row or a whole step a leaf."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tree = PagedTree(128, 2, 16, dtype)
    leaves = random_tree(tree, [1, 5, 63, 64, 65, 130], 1 + seed, rng)
    check(tree, leaves, rows_of(leaves, rng, 20, tree), n_heads=6, chunk=128)


def test_many_rows_share_a_prefix(dtype):
    """Tiles of 64 query rows, the last one ragged."""
    torch.manual_seed(0)
    tree = PagedTree(40, 1, 32, dtype)
    root = tree.grow(None, 100)
    leaves = [tree.grow(root, 2) for _ in range(30)]
    check(tree, leaves, [1] * 30, n_heads=3)


@pytest.mark.parametrize("tile", [16, 32, 64, 128])
@pytest.mark.parametrize("counts", [[1] * 18, [33, 5]])
def test_tiles_of_any_height(dtype, tile, counts, monkeypatch):
    """In every dtype, whatever tile it takes in production; 18 rows share a prefix, or two nodes feed several."""
    monkeypatch.setattr(tree_attention_module, "large_tile", lambda *_: tile)
    torch.manual_seed(tile)
    tree = PagedTree(40, 1, 16, dtype)
    root = tree.grow(None, 66)
    leaves = [tree.grow(root, count + 1) for count in counts]
    check(tree, leaves, counts, n_heads=4)


def test_appends_take_the_widest_tile():
    tree = PagedTree(8, 1, 64, torch.bfloat16)
    leaves = [tree.grow(tree.grow(None, 10), length) for length in (40, 3)]
    decode, append = (tree.device_plan(planned(tree, leaves, counts), 4).append for counts in ([1, 1], [40, 1]))
    assert (decode, append) == (False, True)
    assert [large_tile(64, 2, each) for each in (decode, append)] == [64, 128]
    assert large_tile(256, 2, append) == 32  # shared memory
    assert large_tile(80, 2, append) == 64  # registers
    assert large_tile(64, 4, append) == 16  # fp32: no matrix units


def test_one_row_alone(dtype):
    torch.manual_seed(1)
    tree = PagedTree(4, 1, 64, dtype)
    check(tree, [tree.grow(None, 1)], [1], n_heads=1)


def test_an_item_without_visible_keys_counts_for_nothing(dtype):
    """Windows hide whole segments: their partials are (0, -inf, 0), never NaN."""
    torch.manual_seed(2)
    tree = PagedTree(16, 1, 16, dtype)
    root = tree.grow(None, 128)
    leaf = tree.grow(tree.grow(root, 128), 30)
    host = planned(tree, [leaf], [1])
    q = torch.randn(1, 16).to(dtype)
    plan = tree.device_plan(host, 1)
    parts = (poisoned(3, 1, 16, dtype=F32), poisoned(3, 1, dtype=F32), poisoned(3, 1, dtype=F32))
    tree_attention(q, tree.pool, plan, *parts, 1, 0.25, window=8)
    assert parts[1][:, 0].isneginf().sum() == 2
    hidden = parts[1][:, 0].isneginf()
    assert (parts[2][hidden] == 0).all()
    assert (parts[0][hidden] == 0).all()
    check(tree, [leaf], [1], n_heads=1, window=8)


def test_rows_that_see_nothing_of_the_first_page(dtype):
    """In one tile the first rows still see it, and the window of the last ones begins behind it."""
    torch.manual_seed(5)
    tree = PagedTree(16, 1, 16, dtype)
    leaf = tree.grow(tree.grow(None, 10), 130)
    check(tree, [leaf], [100], n_heads=1, window=8)


def test_partials_equal_their_twin(dtype):
    torch.manual_seed(3)
    tree = PagedTree(32, 2, 16, dtype)
    root = tree.grow(None, 70)
    leaves = [tree.grow(root, length) for length in (5, 20)]
    host = planned(tree, leaves, [2, 20])
    plan = tree.device_plan(host, 4)
    q = torch.randn(host.n_rows, 64).to(dtype)
    wanted = [torch.zeros(host.n_partials, 4, 16), torch.zeros(host.n_partials, 4), torch.zeros(host.n_partials, 4)]
    reference.tree_attention(q, tree.pool, plan, *wanted, 4, 0.25)

    def run():
        parts = [poisoned(*w.shape, dtype=F32) for w in wanted]
        tree_attention(q, tree.pool, plan, *parts, 4, 0.25)
        return parts

    verify(run, wanted, dtype)
    out = torch.empty(host.n_rows, 64, dtype=torch.float64)
    reference.merge_states(*wanted, plan, out)
    scale = attention_reference(tree, leaves, [2, 20], host.order.tolist(), q, 0.25, 0, 0.0)
    assert torch.allclose(out, scale, atol=1e-5)


@pytest.mark.parametrize(("window", "softcap"), [(0, 0.0), (40, 3.0)])
def test_row_attention(dtype, window, softcap):
    """The same plan without sharing, rows of a recorded launch that the plan does not use included."""
    torch.manual_seed(4)
    tree = PagedTree(40, 2, 80, dtype)
    root = tree.grow(None, 130)
    leaves = [tree.grow(root, length) for length in (5, 70, 64)]
    host = planned(tree, leaves, [1, 3, 1])
    size = replace(size_of(host, 3), rows=8)
    plan = empty_plan(size, torch.device("cpu"))
    update(plan, host, 3)
    q = torch.randn(8, 480).to(dtype)
    scale = tree.head_dim**-0.5
    wanted = torch.zeros(8, 480, dtype=torch.float64)
    wanted[:5] = attention_reference(tree, leaves, [1, 3, 1], host.order.tolist(), q[:5], scale, window, softcap)

    def run():
        out = poisoned(8, 480, dtype=dtype)
        row_attention(q, tree.pool, plan, out, 6, scale, window, softcap)
        return (out,)

    verify(run, [wanted], dtype)


def test_rows_without_partials_get_zeros(dtype):
    """Rows of a recorded launch that the present plan does not use."""
    tree = PagedTree(4, 1, 16, dtype)
    plan = tree.device_plan(planned(tree, [tree.grow(None, 3)], [2]), 1)
    plan.row_partial_begin[1:] = 1
    parts = torch.ones(2, 1, 16), torch.zeros(2, 1), torch.ones(2, 1)
    out = poisoned(2, 16, dtype=dtype)
    merge_states(*parts, plan, out)
    assert (out[0] == 1).all()
    assert (out[1] == 0).all()


def test_a_plan_that_does_not_fit_the_model_is_named():
    tree = PagedTree(4, 2, 16, F32)
    plan = tree.device_plan(planned(tree, [tree.grow(None, 3)], [2]), 2)
    parts = torch.ones(2, 3, 16), torch.zeros(2, 3), torch.ones(2, 3)
    with pytest.raises(ValueError, match="n_heads is 3, expected a multiple of the 2 kv heads"):
        tree_attention(torch.ones(2, 48), tree.pool, plan, *parts, 3, 1.0)
    assert PAGE == 64
