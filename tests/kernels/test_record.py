"""Recorded passes: the same bits as calls one by one, for any rows that fit, on memory that stays in place."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor

from branchwise import _C

from .trees import Tree

ROWS, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, INNER = 64, 4, 2, 16, 96, 128
POSITIONS = 400


class Layer:
    """One layer's kernels over random weights; bf16 and small integers both."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.norm = torch.randn(HIDDEN).to(dtype)
        self.qkv = _C.DenseWeight(self._matrix((HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN))
        self.bias = torch.randn((HEADS + 2 * KV_HEADS) * HEAD_DIM).to(dtype)
        self.output = _C.DenseWeight(self._matrix(HIDDEN, HEADS * HEAD_DIM))
        self.gated = _C.DenseWeight(self._matrix(2 * INNER, HIDDEN))
        codes = torch.randint(0, 256, (HIDDEN, INNER), dtype=torch.uint8)
        self.down = _C.QuantisedWeight(codes, torch.rand(HIDDEN, 1) * 0.01, None, 8, 0)
        angles = torch.rand(POSITIONS, HEAD_DIM // 2) * 6
        self.cos, self.sin = angles.cos(), angles.sin()

    def _matrix(self, n: int, k: int) -> Tensor:
        return (torch.randn(n, k) / k**0.5).to(self.dtype)

    def __call__(self, x: Tensor, plan: _C.AttentionPlan, pool: Tensor) -> Tensor:
        """x: [rows, hidden], overwritten -> [feeds, hidden / 2]."""
        rows = len(x)
        heads = HEADS * HEAD_DIM
        widths = [HIDDEN, len(self.bias), heads, heads, INNER, HIDDEN, HIDDEN // 2]
        normed, qkv, query, mixed, inner, update, half = (torch.empty(rows, n, dtype=self.dtype) for n in widths)
        _C.rms_norm(x, self.norm, normed, 1e-5)
        _C.gemm(normed, self.qkv, qkv, self.bias)
        _C.rope_store(qkv, plan, self.cos, self.sin, query, pool, HEADS, KV_HEADS, HEAD_DIM)
        _C.tree_attention(query, pool, plan, mixed, HEAD_DIM, HEAD_DIM**-0.5)
        x, mixed = (each[: _C.keep_last_rows(each, plan)] for each in (x, mixed))
        normed, inner, update, half = (each[: len(x)] for each in (normed, inner, update, half))
        _C.gemm(mixed, self.output, update)
        _C.add_rms_norm(update, x, self.norm, normed, 1e-5)
        _C.gemm(normed, self.gated, inner, gated="silu")
        _C.quantised_gemm(inner, self.down, update)
        _C.act_mul(update, half, "gelu_tanh")
        return half


def tree_of(dtype: torch.dtype, leaves: int) -> tuple[Tree, list[int]]:
    tree = Tree(KV_HEADS, HEAD_DIM, dtype)
    root = tree.grow(None, 300)
    return tree, [tree.grow(root, 3 + 3 * leaf) for leaf in range(leaves)]


@pytest.mark.parametrize("threads", [1, 2])
def test_same_bits_as_single_calls(isa: str, dtype: torch.dtype, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(7)
    layer, room = Layer(dtype), torch.zeros(ROWS, HIDDEN, dtype=dtype)
    tree, leaves = tree_of(dtype, 20)
    results: list[Tensor] = []
    calls = _C.record(lambda: results.append(layer(room, tree.plan(leaves[:3], [1, 1, 1]), tree.pool)))
    assert len(calls) == 11
    for counts in ([1], [1] * 5, [3, 1, 2] * 6, [1] * 20, [3], [1] * 3):
        plan = tree.plan(leaves[: len(counts)], counts)
        x = torch.randn(sum(counts), HIDDEN).to(dtype)
        room[: len(x)] = x
        calls.run(plan)
        replayed, pool = results[0][: len(counts)].clone(), tree.pool.clone()
        assert torch.equal(replayed, layer(x, plan, tree.pool))
        assert torch.equal(torch.nan_to_num(pool), torch.nan_to_num(tree.pool))


def test_recording_runs_nothing_and_keeps_memory() -> None:
    layer, room = Layer(torch.bfloat16), torch.randn(ROWS, HIDDEN).bfloat16()
    tree, leaves = tree_of(torch.bfloat16, 2)
    before, plan = room.clone(), tree.plan(leaves, [1, 1])
    results: list[Tensor] = []

    def body(layer: Layer = layer) -> None:
        results.append(layer(room, plan, tree.pool))

    calls = _C.record(body)
    assert torch.equal(room, before)
    expected = layer(room[:2].clone(), plan, tree.pool)
    del layer, body
    gc.collect()
    filler = [torch.full((ROWS, width), 3.0) for width in range(16, 160)]  # takes whatever was given back
    calls.run(plan)
    assert torch.equal(results[0][:2], expected), len(filler)


def test_keep_last_rows() -> None:
    tree, leaves = tree_of(torch.float32, 4)
    plan = tree.plan([leaves[2], leaves[0], leaves[3]], [1, 3, 2])  # rows in the order of creation: 3, 1, 2
    x = torch.arange(12.0).view(6, 2)
    assert _C.keep_last_rows(x, plan) == 3
    assert x[:3].tolist() == [[4, 5], [6, 7], [10, 11]]
    with pytest.raises(ValueError, match=r"x has shape \[5, 2\].*6"):
        _C.keep_last_rows(torch.zeros(5, 2), plan)


def test_mistakes() -> None:
    layer, room = Layer(torch.float32), torch.zeros(8, HIDDEN)
    tree, leaves = tree_of(torch.float32, 9)
    plan = tree.plan(leaves[:1], [1])
    calls = _C.record(lambda: layer(room, plan, tree.pool))
    with pytest.raises(ValueError, match="the plan has 9 rows, the calls were recorded over 8"):
        calls.run(tree.plan(leaves, [1] * 9))
    with pytest.raises(ValueError, match="a pool of 2"):
        _C.record(lambda: layer(room, plan, tree.pool[:2])).run(plan)
    layer.cos, layer.sin = layer.cos[:20], layer.sin[:20]
    with pytest.raises(ValueError, match="beyond the 20 positions"):
        _C.record(lambda: layer(room, plan, tree.pool)).run(plan)
    with pytest.raises(ValueError, match="within record"):
        _C.record(lambda: _C.record(lambda: None))
    with pytest.raises(ZeroDivisionError):
        _C.record(lambda: 1 // 0)
    out = torch.zeros(2, HIDDEN)
    _C.rms_norm(torch.ones(2, HIDDEN), torch.ones(HIDDEN), out, 0.0)  # a failed recording is over
    assert torch.equal(out, torch.ones(2, HIDDEN))
