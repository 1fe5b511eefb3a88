"""Attention in runs of rows: the bits of one run, whatever the memory for partials."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from branchwise import _C
from branchwise.backend.base import AttentionShape
from branchwise.backend.gpu import plan as plan_module
from branchwise.backend.gpu.loop import loop_key
from branchwise.backend.gpu.plan import TritonPlan, most_partials
from branchwise.backend.gpu.scratch import Scratch
from branchwise.engine.sampler import Draw, draw_arrays
from branchwise.types import Sampling
from branchwise_kernels.attention_cost import partial_bytes
from branchwise_kernels.layout import Growth, PlanSize, update
from kernels_interp.harness.dot import every_number_by_itself
from kernels_interp.harness.guard import Guard
from kernels_interp.harness.verify import poisoned
from kernels_interp.trees import PagedTree

HEADS, KV_HEADS, DIM = 6, 2, 16
SHAPE = AttentionShape(HEADS, KV_HEADS, DIM)
CPU = torch.device("cpu")
SCALE = 0.25


def deep_tree(dtype: torch.dtype) -> tuple[PagedTree, list[int]]:
    """A prompt, and chains of steps below it, of which some are shared."""
    torch.manual_seed(11)
    tree = PagedTree(64, KV_HEADS, DIM, dtype)
    root = tree.grow(None, 100)
    trunk = tree.grow(tree.grow(root, 3), 70)
    leaves = [tree.grow(tree.grow(trunk, length), 40) for length in (5, 64)]
    return tree, [*leaves, *(tree.grow(root, 22) for _ in range(2))]


def with_room(monkeypatch: pytest.MonkeyPatch, partials: int) -> None:
    monkeypatch.setattr(plan_module, "PARTIALS_BYTES", partials * partial_bytes(HEADS, DIM))
    assert most_partials(SHAPE) == partials


@pytest.mark.parametrize(("most", "window"), [(9, 0), (9, 60), (1, 0)])
def test_the_same_bits(dtype, most, window, monkeypatch):
    """Whole steps, and single rows: some of an item's rows lie in one run, some in the next."""
    tree, nodes = deep_tree(dtype)
    counts = [6, 2, 1, 1]
    host = _C.Planner(tree.cache, 512, 64).build(np.array(nodes), np.array(counts, np.int32))
    q = torch.randn(host.n_rows, HEADS * DIM).to(dtype)
    monkeypatch.setattr(plan_module, "cheaper_path", lambda *_: "tree")

    def attend() -> torch.Tensor:
        made = TritonPlan.exact(host, SHAPE, Scratch(CPU))
        out = poisoned(*q.shape, dtype=dtype)
        with Guard(), every_number_by_itself():
            made.attend(q, tree.pool, out, SCALE, window, 0.0)
        return out

    whole = attend()
    with_room(monkeypatch, most)
    made = TritonPlan.exact(host, SHAPE, Scratch(CPU))
    assert len(made.partial_max) <= max(most, 5)  # five on the longest path
    assert len(made.arrays.items) == (10 if most == 1 else 8)
    assert torch.equal(attend(), whole)


def test_a_recorded_plan_has_runs_too(monkeypatch):
    """Four rows that grow by two tokens, in runs of six partials: as in one run, at each of their positions."""
    tree, nodes = deep_tree(torch.float32)
    planner = _C.Planner(tree.cache, 512, 64)
    host = planner.build(np.array(nodes), np.ones(4, np.int32))
    draws = draw_arrays([Draw(1, 1, 1, Sampling())] * 4)
    q, outs = torch.randn(8, HEADS * DIM), []
    start = np.array([tree.cache.start(nodes[index]) for index in host.order], np.int32)
    for most in (1000, 6):
        ((wanted),) = loop_key(host, draws, "tree", most)
        size = PlanSize.for_rows(8, wanted.partials, HEADS // KV_HEADS, 64, wanted.runs)
        made = TritonPlan.empty(size, SHAPE, "tree", Scratch(CPU))
        update(made.arrays, host, HEADS // KV_HEADS, Growth(start, np.full(4, 2, np.int32)))
        for _ in range(3):
            out = poisoned(*q.shape, dtype=torch.float32)
            with every_number_by_itself():
                made.attend(q, tree.pool, out, SCALE, 0, 0.0)
            assert (out[4:] == 0).all()  # rows of the recording that the plan does not use
            outs.append(out)
            made.arrays.positions[:4] += 1
        assert (wanted.partials, wanted.runs) == ((64, 1) if most == 1000 else (6, 4))
    for one, cut in zip(outs[:3], outs[3:], strict=True):
        assert torch.equal(one, cut)
    for earlier, later in pairwise(outs[:3]):
        assert not torch.equal(earlier, later)


def test_the_key_of_a_loop_has_room_for_a_row_of_many_partials():
    tree, nodes = deep_tree(torch.float32)
    host = _C.Planner(tree.cache, 512, 64).build(np.array(nodes), np.ones(4, np.int32))
    draws = draw_arrays([Draw(1, 1, 1, Sampling())] * 4)
    ((wanted),) = loop_key(host, draws, "tree", 3)
    assert (wanted.partials, wanted.runs) == (8, 4)  # paths of two and of five
    ((wanted),) = loop_key(host, draws, "rows", 3)
    assert (wanted.partials, wanted.runs) == (64, 1)
