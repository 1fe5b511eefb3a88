"""Rotary embedding (Su et al. 2021, half-split) of queries and keys, with keys and values going to their pages.

    (a, b) -> (a cos - b sin, b cos + a sin)    for the two halves of a head, angle by position

Queries go to `query`; K, rotated, and V, as it is, to slot `slots[row]` of the pool. Families with q and k norms norm
each head first. One launch; rows beyond `counts[0]` are left alone, so that a recorded launch can serve fewer rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from branchwise_kernels.checks import FLOATS, expect
from branchwise_kernels.layout import PAGE


@triton.jit
def rope_and_store_kernel(
    qkv_ptr, position_ptr, slot_ptr, cos_ptr, sin_ptr, query_ptr, kv_ptr, q_norm_ptr, k_norm_ptr, count_ptr,
    n_heads, n_kv_heads, eps,
    D: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_HALF: tl.constexpr, PAGE: tl.constexpr, NORM: tl.constexpr,
    ADD_ONE: tl.constexpr,
):  # fmt: skip
    """Program (row, group of heads): query heads first, then those of K, then V."""
    row = tl.program_id(0)
    if row >= tl.load(count_ptr):
        return
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    all_heads = n_heads + 2 * n_kv_heads
    half: tl.constexpr = D // 2
    i = tl.arange(0, BLOCK_HALF)
    inside = (head < all_heads)[:, None] & (i < half)[None, :]
    offset = (row.to(tl.int64) * all_heads + head)[:, None] * D + i[None, :]
    a = tl.load(qkv_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(qkv_ptr + offset + half, mask=inside, other=0.0).to(tl.float32)
    is_q, is_k = head < n_heads, (head >= n_heads) & (head < n_heads + n_kv_heads)
    if NORM:
        scale = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / D + eps)[:, None]
        column = tl.where(inside, i[None, :], 0)
        from_q = tl.load(q_norm_ptr + column), tl.load(q_norm_ptr + column + half)
        from_k = tl.load(k_norm_ptr + column), tl.load(k_norm_ptr + column + half)
        w_a = tl.where(is_q[:, None], from_q[0], from_k[0]).to(tl.float32)
        w_b = tl.where(is_q[:, None], from_q[1], from_k[1]).to(tl.float32)
        if ADD_ONE:
            w_a += 1.0
            w_b += 1.0
        normed = (is_q | is_k)[:, None]
        a = tl.where(normed, a * scale * w_a, a)
        b = tl.where(normed, b * scale * w_b, b)
    angle = tl.load(position_ptr + row).to(tl.int64) * half + i
    cos = tl.load(cos_ptr + angle, mask=i < half, other=1.0)[None, :]
    sin = tl.load(sin_ptr + angle, mask=i < half, other=0.0)[None, :]
    rotated = (is_q | is_k)[:, None]
    first = tl.where(rotated, a * cos - b * sin, a)
    second = tl.where(rotated, b * cos + a * sin, b)

    to_query = inside & is_q[:, None]
    query = (row.to(tl.int64) * n_heads + head)[:, None] * D + i[None, :]
    tl.store(query_ptr + query, first.to(query_ptr.dtype.element_ty), mask=to_query)
    tl.store(query_ptr + query + half, second.to(query_ptr.dtype.element_ty), mask=to_query)
    slot = tl.load(slot_ptr + row).to(tl.int64)
    is_v = head >= n_heads + n_kv_heads
    kv_head = tl.where(is_v, head - n_heads - n_kv_heads, head - n_heads)
    plane = ((slot // PAGE) * n_kv_heads + kv_head) * 2 + tl.where(is_v, 1, 0)
    target = (plane * PAGE + slot % PAGE)[:, None] * D + i[None, :]
    to_pool = inside & (head >= n_heads)[:, None]
    tl.store(kv_ptr + target, first.to(kv_ptr.dtype.element_ty), mask=to_pool)
    tl.store(kv_ptr + target + half, second.to(kv_ptr.dtype.element_ty), mask=to_pool)


def rope_and_store(
    qkv: Tensor, positions: Tensor, slots: Tensor, cos: Tensor, sin: Tensor, query: Tensor, kv: Tensor, n_heads: int,
    n_kv_heads: int, head_dim: int, q_norm: Tensor | None, k_norm: Tensor | None, eps: float, add_one: bool,
    counts: Tensor,
) -> None:  # fmt: skip
    """qkv: [rows, (n_heads + 2 n_kv_heads) * head_dim]    query: [rows, n_heads * head_dim]    counts: a plan's

    positions, slots: [rows] int32    cos, sin: [positions, head_dim / 2] fp32    q_norm, k_norm: [head_dim] or None
    kv: [page, kv_head, 2, 64, head_dim]
    """
    rows, all_heads = len(qkv), n_heads + 2 * n_kv_heads
    expect("qkv", qkv, FLOATS, (rows, all_heads * head_dim))
    expect("positions", positions, torch.int32, (rows,))
    expect("slots", slots, torch.int32, (rows,))
    expect("cos", cos, torch.float32, (-1, head_dim // 2))
    expect("sin", sin, torch.float32, tuple(cos.shape))
    expect("query", query, qkv.dtype, (rows, n_heads * head_dim))
    expect("kv", kv, qkv.dtype, (-1, n_kv_heads, 2, PAGE, head_dim))
    for name, weight in (("q_norm", q_norm), ("k_norm", k_norm)):
        if weight is not None:
            expect(name, weight, qkv.dtype, (head_dim,))
    if (q_norm is None) != (k_norm is None):
        raise ValueError("q_norm and k_norm: expected both or neither")
    block = min(8, triton.next_power_of_2(all_heads))
    rope_and_store_kernel[(rows, triton.cdiv(all_heads, block))](
        qkv, positions, slots, cos, sin, query, kv, qkv if q_norm is None else q_norm,
        qkv if k_norm is None else k_norm, counts, n_heads, n_kv_heads, eps,
        D=head_dim, BLOCK_H=block, BLOCK_HALF=triton.next_power_of_2(head_dim // 2), PAGE=PAGE,
        NORM=q_norm is not None, ADD_ONE=add_one, num_warps=4,
    )  # fmt: skip
