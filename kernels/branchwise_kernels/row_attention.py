"""Attention row by row, every segment read once for each row under it: for trees that share next to nothing.

It writes no partials and needs no merge, so it moves fewer bytes than `tree_attention` where segments are short or have
one row each; `attention_cost` says when. The result differs from the tree's in rounding alone.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from branchwise_kernels.attend import attend, first_visible
from branchwise_kernels.checks import FLOATS, expect
from branchwise_kernels.layout import PAGE, DevicePlan, registers


@triton.jit
def row_attention_kernel(
    q_ptr, kv_ptr, item_ptr, page_ptr, position_ptr, begin_ptr, row_item_ptr, out_ptr,
    scale, softcap, n_kv_heads, window,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, PAGE: tl.constexpr,
    WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, EVEN_D: tl.constexpr,
):  # fmt: skip
    """Program (row, kv head): the heads of the group against the row's path, from root to leaf."""
    row = tl.program_id(0)
    kv_head = tl.program_id(1)
    query = tl.arange(0, BLOCK_Q)
    live = query < GROUP
    d = tl.arange(0, BLOCK_D)
    wide = live[:, None] & (d < D)[None, :]
    head = row.to(tl.int64) * n_kv_heads * GROUP + kv_head * GROUP + query
    offset = head[:, None] * D + d[None, :]
    q = tl.load(q_ptr + offset, mask=wide, other=0.0)
    own = tl.load(position_ptr + row)
    position = tl.where(live, own, -1)

    m = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    acc = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    for i in range(tl.load(begin_ptr + row), tl.load(begin_ptr + row + 1)):
        item = item_ptr + tl.load(row_item_ptr + i) * 8
        page_begin, key_count, key_position = tl.load(item + 2), tl.load(item + 3), tl.load(item + 4)
        causal = tl.load(item + 6)
        if causal != 0:
            key_count = tl.minimum(key_count, own + 1 - key_position)
        first_key = 0
        if WINDOW:
            first_key = first_visible(position, live, key_position, window, PAGE)
        m, total, acc = attend(
            q, position, m, total, acc, kv_ptr, page_ptr, kv_head, n_kv_heads, page_begin, first_key, key_count,
            key_position, causal, scale, softcap, window, D, BLOCK_D, PAGE, WINDOW, SOFTCAP, EVEN_D,
        )  # fmt: skip
    value = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(out_ptr + offset, value.to(out_ptr.dtype.element_ty), mask=wide)


def row_attention(
    q: Tensor, kv: Tensor, plan: DevicePlan, out: Tensor, n_heads: int, scale: float, window: int = 0,
    softcap: float = 0.0,
) -> None:  # fmt: skip
    """One launch; rows beyond the plan get zeros.

    q, out: [rows, n_heads * head_dim]    kv: [page, kv_head, 2, 64, head_dim], same dtype    window: 0 for none
    """
    n_kv_heads, head_dim = kv.shape[1], kv.shape[-1]
    rows = len(plan.positions)
    expect("q", q, FLOATS, (rows, n_heads * head_dim))
    expect("out", out, q.dtype, (rows, n_heads * head_dim))
    expect("kv", kv, q.dtype, (-1, n_kv_heads, 2, PAGE, head_dim))
    if n_heads % n_kv_heads:
        raise ValueError(f"n_heads is {n_heads}, expected a multiple of the {n_kv_heads} kv heads")
    group = n_heads // n_kv_heads
    block_d = max(16, triton.next_power_of_2(head_dim))
    row_attention_kernel[(rows, n_kv_heads)](
        q, kv, plan.items, plan.pages, plan.positions, plan.row_partial_begin, plan.row_items, out,
        scale, softcap, n_kv_heads, window,
        GROUP=group, D=head_dim, BLOCK_D=block_d, BLOCK_Q=max(16, triton.next_power_of_2(group)), PAGE=PAGE,
        WINDOW=window > 0, SOFTCAP=softcap > 0, EVEN_D=block_d == head_dim, num_warps=4, num_stages=3,
        maxnreg=registers(head_dim),
    )  # fmt: skip
