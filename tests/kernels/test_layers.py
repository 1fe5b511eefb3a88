"""Norms, gated activations and rotary embedding against float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from branchwise import _C
from tolerances import assert_close

from .trees import BLOCK, Tree, decode_blocks


def norm_reference(x: Tensor, weight: Tensor, eps: float, add_one: bool) -> Tensor:
    x = x.double()
    scaled = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * (weight.double() + (1 if add_one else 0))


@pytest.mark.parametrize("dim", [8, 16, 64, 95, 896, 1001])
@pytest.mark.parametrize("add_one", [False, True])
def test_rms_norm(isa: str, dtype: torch.dtype, dim: int, add_one: bool) -> None:
    torch.manual_seed(dim)
    x, weight = torch.randn(5, dim).to(dtype), torch.randn(dim).to(dtype)
    out = torch.full_like(x, math.nan)
    _C.rms_norm(x, weight, out, 1e-5, add_one)
    assert_close("rms_norm", out, norm_reference(x, weight, 1e-5, add_one))
    alone = torch.empty_like(x[:1])
    _C.rms_norm(x[3:4].contiguous(), weight, alone, 1e-5, add_one)
    assert torch.equal(alone[0], out[3])


def test_add_rms_norm(isa: str, dtype: torch.dtype) -> None:
    x, residual, weight = (torch.randn(shape).to(dtype) for shape in ((40, 896), (40, 896), (896,)))
    total, out = x + residual, torch.full_like(x, math.nan)
    _C.add_rms_norm(x, residual, weight, out, 1e-6)
    assert torch.equal(residual, total)
    assert_close("rms_norm", out, norm_reference(total, weight, 1e-6, False))


@pytest.mark.parametrize("kind", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("dim", [8, 31, 4864])
def test_act_mul(isa: str, dtype: torch.dtype, kind: str, dim: int) -> None:
    gate_up = (torch.randn(6, 2 * dim) * 3).to(dtype)
    out = torch.full((6, dim), math.nan, dtype=dtype)
    _C.act_mul(gate_up, out, kind)
    gate, up = gate_up.double().chunk(2, dim=1)
    silu = torch.nn.functional.silu(gate)
    activated = silu if kind == "silu" else torch.nn.functional.gelu(gate, approximate="tanh")
    assert_close("act_mul", out, activated * up)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.double().chunk(2, dim=-1)
    cos, sin = cos[:, None].double(), sin[:, None].double()
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


def slots_of(tree: Tree, pool: Tensor) -> Tensor:
    """K and V of every slot, [2, slots, kv_head, head_dim], with NaN replaced by a number."""
    return decode_blocks(pool, tree.head_dim).flatten(1, 2).nan_to_num(7.0)


@pytest.mark.parametrize("head_dim", [8, 16, 64, 80, 128, 256])
@pytest.mark.parametrize("normed", [False, True])
def test_rope_store(isa: str, dtype: torch.dtype, head_dim: int, normed: bool) -> None:
    torch.manual_seed(head_dim)
    n_heads, n_kv_heads, add_one = 6, 2, head_dim == 16
    tree = Tree(n_kv_heads, head_dim, dtype, n_blocks=16)
    root = tree.grow(None, 33)
    nodes = [tree.grow(root, 70), tree.grow(root, 5)]
    plan = tree.plan(nodes, [40, 5])
    qkv = torch.randn(45, (n_heads + 2 * n_kv_heads) * head_dim).to(dtype)
    angles = torch.randn(200, head_dim // 2)
    cos, sin = angles.cos(), angles.sin()
    q_out = torch.full((45, n_heads * head_dim), math.nan, dtype=dtype)
    norms = [torch.randn(head_dim).to(dtype) if normed else None for _ in range(2)]
    before = tree.pool.clone()
    _C.rope_store(
        qkv, plan, cos, sin, q_out, tree.pool, n_heads, n_kv_heads, head_dim, norms[0], norms[1], 1e-6, add_one
    )
    sizes = [n_heads * head_dim, n_kv_heads * head_dim, n_kv_heads * head_dim]
    q, k, v = (part.unflatten(1, (-1, head_dim)) for part in qkv.split(sizes, dim=1))
    if normed:
        q, k = (norm_reference(x, norm, 1e-6, add_one) for x, norm in zip((q, k), norms, strict=True))
    positions = torch.from_numpy(plan.positions.copy()).long()
    cos, sin = cos[positions], sin[positions]
    assert_close("rope_store", q_out, rotate(q, cos, sin).flatten(1))
    written = torch.zeros(tree.n_blocks * BLOCK, dtype=torch.bool)
    slots = torch.from_numpy(plan.slots.copy()).long()
    written[slots] = True
    keys, values = slots_of(tree, tree.pool)[:, slots]
    assert_close("rope_store", keys, rotate(k, cos, sin))
    assert torch.equal(values, v)
    padding = tree.pool[:, :, 0].unflatten(2, (-1, BLOCK, 4 // dtype.itemsize)).permute(0, 3, 1, 2, 4).flatten(3)
    assert (padding.flatten(0, 1)[slots, :, head_dim:] == 0).all()
    assert torch.equal(slots_of(tree, before)[:, ~written], slots_of(tree, tree.pool)[:, ~written])


def test_mistakes() -> None:
    x = torch.zeros(2, 8)
    with pytest.raises(ValueError, match=r"weight has shape \[7\]"):
        _C.rms_norm(x, torch.zeros(7), x.clone(), 1e-6)
    with pytest.raises(ValueError, match="out is bfloat16"):
        _C.rms_norm(x, torch.zeros(8), x.bfloat16(), 1e-6)
    with pytest.raises(ValueError, match="x is int64"):
        _C.rms_norm(x.long(), torch.zeros(8), x, 1e-6)
    with pytest.raises(ValueError, match="kind is 'relu', expected 'silu' or 'gelu_tanh'"):
        _C.act_mul(torch.zeros(2, 16), x, "relu")


def test_rope_mistakes() -> None:
    tree = Tree(1, 16, torch.float32, n_blocks=16)
    plan = tree.plan([tree.grow(None, 9)], [9])
    qkv, q_out = torch.zeros(9, 3 * 16), torch.zeros(9, 16)
    with pytest.raises(ValueError, match="position 8 is beyond the 8 positions"):
        _C.rope_store(qkv, plan, torch.zeros(8, 8), torch.zeros(8, 8), q_out, tree.pool, 1, 1, 16)
    with pytest.raises(ValueError, match="head_dim is 12"):
        _C.rope_store(qkv, plan, torch.zeros(9, 8), torch.zeros(9, 8), q_out, tree.pool, 1, 1, 12)
