"""Attention of many rows over a tree of KV segments: every shared segment is read once for all rows under it.

A program takes one item of the plan, one kv head and one tile of queries (rows x heads of the group), and walks the
item's keys page by page with an online softmax in base 2 (Milakov and Gimelshein 2018, Dao et al. 2022):

    s_j = scale * log2(e) * q . k_j          softcap c:  s_j = log2(e) * c * tanh(scale * q . k_j / c)
    m = max_j s_j    d = sum_j 2^(s_j - m)    o = sum_j 2^(s_j - m) v_j

What it writes is not normalised: `merge_states` folds a row's partials. A row that sees no key has m = -inf, d = o = 0.
Two launches: items of few queries in tiles of 16, the others in tiles of 64, or of 128 where nodes feed many rows each.
A query's arithmetic runs over its keys in order and page by page in all, so its result does not depend on who shares
its item.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from branchwise_kernels.attend import attend, first_visible
from branchwise_kernels.checks import FLOATS, expect
from branchwise_kernels.layout import LARGE_TILE, PAGE, SMALL_TILE, DevicePlan, large_tile, registers


@triton.jit
def tree_attention_kernel(
    q_ptr, kv_ptr, item_ptr, page_ptr, position_ptr, count_ptr, out_ptr, max_ptr, sum_ptr,
    scale, softcap, n_kv_heads, window,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, PAGE: tl.constexpr,
    COUNT: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, EVEN_D: tl.constexpr,
):  # fmt: skip
    """Program (item, kv head, query tile); COUNT: which entry of `counts` says how many items there are."""
    if tl.program_id(0) >= tl.load(count_ptr + COUNT):
        return
    item = item_ptr + tl.program_id(0) * 8
    kv_head = tl.program_id(1)
    row_begin, row_count = tl.load(item), tl.load(item + 1)
    if tl.program_id(2) * BLOCK_Q >= row_count * GROUP:
        return
    page_begin, key_count, key_position = tl.load(item + 2), tl.load(item + 3), tl.load(item + 4)
    partial_begin, causal = tl.load(item + 5), tl.load(item + 6)

    query = tl.program_id(2) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    local_row = query // GROUP
    live = local_row < row_count
    head = kv_head * GROUP + query % GROUP
    heads = n_kv_heads * GROUP
    d = tl.arange(0, BLOCK_D)
    wide = live[:, None] & (d < D)[None, :]
    q_offset = ((row_begin + local_row).to(tl.int64) * heads + head)[:, None] * D + d[None, :]
    q = tl.load(q_ptr + q_offset, mask=wide, other=0.0)
    position = tl.load(position_ptr + row_begin + local_row, mask=live, other=-1)
    if causal != 0:  # keys beyond the last row of the tile are seen by none, and may not be written yet
        key_count = tl.minimum(key_count, tl.max(position, 0) + 1 - key_position)
    first_key = 0
    if WINDOW:
        first_key = first_visible(position, live, key_position, window, PAGE)

    m = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    acc = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    m, total, acc = attend(
        q, position, m, total, acc, kv_ptr, page_ptr, kv_head, n_kv_heads, page_begin, first_key, key_count,
        key_position, causal, scale, softcap, window, D, BLOCK_D, PAGE, WINDOW, SOFTCAP, EVEN_D,
    )  # fmt: skip

    partial = (partial_begin + local_row).to(tl.int64) * heads + head
    tl.store(max_ptr + partial, m, mask=live)
    tl.store(sum_ptr + partial, total, mask=live)
    tl.store(out_ptr + partial[:, None] * D + d[None, :], acc, mask=wide)


def tree_attention(
    q: Tensor, kv: Tensor, plan: DevicePlan, partial_out: Tensor, partial_max: Tensor, partial_sum: Tensor,
    n_heads: int, scale: float, window: int = 0, softcap: float = 0.0, run: int = 0,
) -> None:  # fmt: skip
    """Partials of every item of a run; at most two launches.

    q: [rows, n_heads * head_dim]    kv: [page, kv_head, 2, 64, head_dim], same dtype    window: 0 for none
    partial_out: [partials, n_heads, head_dim] fp32    partial_max, partial_sum: [partials, n_heads] fp32
    """
    n_kv_heads, head_dim = kv.shape[1], kv.shape[-1]
    partials = len(partial_max)
    expect("q", q, FLOATS, (-1, n_heads * head_dim))
    expect("kv", kv, q.dtype, (-1, n_kv_heads, 2, PAGE, head_dim))
    expect("partial_out", partial_out, torch.float32, (partials, n_heads, head_dim))
    for name, values in (("partial_max", partial_max), ("partial_sum", partial_sum)):
        expect(name, values, torch.float32, (partials, n_heads))
    if n_heads % n_kv_heads:
        raise ValueError(f"n_heads is {n_heads}, expected a multiple of the {n_kv_heads} kv heads")
    group = n_heads // n_kv_heads
    block_d = max(16, triton.next_power_of_2(head_dim))
    large = large_tile(head_dim, q.element_size(), plan.append)
    warps = 4 if head_dim <= 64 and large <= LARGE_TILE else 8
    sizes = (
        (plan.max_small, 0, SMALL_TILE, 1, 1, 4),
        (plan.max_large, plan.max_small, large, 2, -(-plan.tiles * LARGE_TILE // large), warps),
    )
    for items, first, tile, count, tiles, num_warps in sizes:
        if items:
            tree_attention_kernel[(items, n_kv_heads, tiles)](
                q, kv, plan.items[run, first:], plan.pages, plan.positions, plan.counts[run],
                partial_out, partial_max, partial_sum, scale, softcap, n_kv_heads, window,
                GROUP=group, D=head_dim, BLOCK_D=block_d, BLOCK_Q=tile, PAGE=PAGE, COUNT=count, WINDOW=window > 0,
                SOFTCAP=softcap > 0, EVEN_D=block_d == head_dim, num_warps=num_warps, num_stages=3,
                maxnreg=registers(head_dim),
            )  # fmt: skip
