"""Bytes that attention moves on the trees of recorded searches, counted; and whether the cost model knows them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from branchwise import _C
from branchwise.backend.base import AttentionShape
from branchwise.backend.gpu.plan import TritonPlan, cheaper_path
from branchwise.backend.gpu.scratch import Scratch
from branchwise_kernels.attention_cost import attention_bytes
from branchwise_kernels.layout import LARGE_TILE, SMALL_TILE, plan_from
from branchwise_kernels.row_attention import row_attention
from branchwise_kernels.tree_attention import tree_attention
from kernels_interp.harness.count import Count
from kernels_interp.trees import PagedTree

RECORDED = json.loads(Path(__file__).with_name("recorded_trees.json").read_text())
CASES = [(name, i) for name, snapshots in RECORDED.items() for i in range(len(snapshots))]
HEADS, KV_HEADS, HEAD_DIM = 4, 1, 16  # ratios do not depend on them
SLOT = 2 * KV_HEADS * HEAD_DIM * 2
BOUND = 1.10


class Snapshot:
    """One recorded iteration as tree, plan and pool; bf16."""

    def __init__(self, name: str, index: int) -> None:
        recorded = RECORDED[name][index]
        self.lengths = [length for _, length in recorded["nodes"]]
        self.parents = [parent for parent, _ in recorded["nodes"]]
        self.rows = recorded["rows"]
        pages = sum(-(-length // 64) for length in self.lengths) + 1
        self.tree = PagedTree(pages, KV_HEADS, HEAD_DIM, torch.bfloat16)
        handles: list[int] = []
        for parent, length in recorded["nodes"]:
            handles.append(self.tree.grow(None if parent < 0 else handles[parent], length))
        planner = _C.Planner(self.tree.cache, chunk_slots=512)
        rows = np.array([handles[row] for row in self.rows], np.int64)
        self.host = planner.build(rows, np.ones(len(rows), np.int32))
        self.plan = plan_from(self.host, HEADS // KV_HEADS, torch.device("cpu"))
        self.q = torch.randn(self.host.n_rows, HEADS * HEAD_DIM).bfloat16()

    def tiles_once(self) -> int:
        """Bytes if every live slot is read once per row tile: told from the tree, not from the plan."""
        below: Counter[int] = Counter()
        for row in self.rows:
            node = row
            while node >= 0:
                below[node] += 1
                node = self.parents[node]
        queries = {node: rows * HEADS // KV_HEADS for node, rows in below.items()}
        tiles = {node: 1 if count <= SMALL_TILE else -(-count // LARGE_TILE) for node, count in queries.items()}
        return sum(self.lengths[node] * count for node, count in tiles.items()) * SLOT


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}, {case[1]}", scope="module")
def counted(request):
    snapshot = Snapshot(*request.param)
    host, n = snapshot.host, snapshot.host.n_partials
    parts = torch.empty(n, HEADS, HEAD_DIM), torch.empty(n, HEADS), torch.empty(n, HEADS)
    with Count(kv=snapshot.tree.pool, out=parts[0], max=parts[1], sum=parts[2]) as shared:
        tree_attention(snapshot.q, snapshot.tree.pool, snapshot.plan, *parts, HEADS, 0.25)
    with Count(kv=snapshot.tree.pool) as alone:
        row_attention(snapshot.q, snapshot.tree.pool, snapshot.plan, torch.empty_like(snapshot.q), HEADS, 0.25)
    return snapshot, host, shared, alone


def test_every_live_slot_once_per_tile(counted):
    snapshot, host, shared, alone = counted
    ideal, read = snapshot.tiles_once(), shared.read["kv"]
    partials = sum(shared.written[name] for name in ("out", "max", "sum"))
    print(
        f"{host.n_rows} rows, {sum(snapshot.lengths)} slots: {read} B of KV read, {read / ideal:.3f} of once per tile; "
        f"{alone.read['kv'] / read:.2f} times as much without sharing; {partials} B of partials written"
    )
    assert read <= BOUND * ideal
    assert read < alone.read["kv"]


def test_the_cost_model_counts_the_same(counted):
    _, host, shared, alone = counted
    cost = attention_bytes(host, HEADS, KV_HEADS, HEAD_DIM, itemsize=2)
    partials = sum(shared.written[name] for name in ("out", "max", "sum"))
    assert cost.tree_kv == shared.read["kv"]
    assert cost.tree_partials == 2 * partials
    assert cost.rows == alone.read["kv"]


def plan_of(lengths: tuple[int, int], rows: int) -> _C.AttentionPlan:
    """`rows` leaves under one root."""
    tree = PagedTree(64, 2, 16, torch.bfloat16)
    root = tree.grow(None, lengths[0])
    leaves = [tree.grow(root, lengths[1]) for _ in range(rows)]
    return _C.Planner(tree.cache, chunk_slots=512).build(np.array(leaves, np.int64), np.ones(rows, np.int32))


def test_the_path_follows_the_bytes():
    shape = AttentionShape(12, 2, 128)
    assert cheaper_path(plan_of((500, 30), 20), shape) == "tree"
    assert cheaper_path(plan_of((500, 30), 1), shape) == "rows"  # nobody to share with: partials are a loss
    assert cheaper_path(plan_of((3, 30), 20), shape) == "rows"  # a short prefix is not worth its partials
    plan = plan_of((500, 30), 1)
    assert TritonPlan.exact(plan, shape, Scratch(torch.device("cpu"))).path == "rows"
