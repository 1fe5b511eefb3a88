"""Folds the partials of each row into its attention output, from root to leaf.

    m' = max(m, m_i)    d' = d 2^(m - m') + d_i 2^(m_i - m')    o' = o 2^(m - m') + o_i 2^(m_i - m')    out = o / d

A partial that saw no key has m_i = -inf and counts for nothing; a row without any gets zeros.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from branchwise_kernels.checks import FLOATS, expect
from branchwise_kernels.layout import DevicePlan

BLOCK_HEADS = 8


@triton.jit
def merge_states_kernel(
    partial_out_ptr, partial_max_ptr, partial_sum_ptr, begin_ptr, partial_ptr, count_ptr, out_ptr, heads,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """Program (row of the run, group of heads)."""
    row = tl.load(count_ptr + 3) + tl.program_id(0)
    if row >= tl.load(count_ptr + 4):
        return
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    live = head < heads
    d = tl.arange(0, BLOCK_D)
    wide = live[:, None] & (d < D)[None, :]
    m = tl.full((BLOCK_H,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_H,), tl.float32)
    acc = tl.zeros((BLOCK_H, BLOCK_D), tl.float32)
    for i in range(tl.load(begin_ptr + row), tl.load(begin_ptr + row + 1)):
        partial = tl.load(partial_ptr + i).to(tl.int64) * heads + head
        m_i = tl.load(partial_max_ptr + partial, mask=live, other=float("-inf"))
        d_i = tl.load(partial_sum_ptr + partial, mask=live, other=0.0)
        o_i = tl.load(partial_out_ptr + partial[:, None] * D + d[None, :], mask=wide, other=0.0)
        m_new = tl.maximum(m, m_i)
        base = tl.where(m_new == float("-inf"), 0.0, m_new)
        old, new = tl.exp2(m - base), tl.exp2(m_i - base)
        total = total * old + d_i * new
        acc = acc * old[:, None] + o_i * new[:, None]
        m = m_new
    value = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    offset = (row.to(tl.int64) * heads + head)[:, None] * D + d[None, :]
    tl.store(out_ptr + offset, value.to(out_ptr.dtype.element_ty), mask=wide)


def merge_states(
    partial_out: Tensor, partial_max: Tensor, partial_sum: Tensor, plan: DevicePlan, out: Tensor, run: int = 0,
) -> None:  # fmt: skip
    """One launch; arguments as `tree_attention` wrote them, out: [rows, n_heads * head_dim], its rows in the run."""
    partials, heads, head_dim = partial_out.shape
    rows = len(plan.positions)
    expect("partial_out", partial_out, torch.float32, (partials, heads, head_dim))
    expect("partial_max", partial_max, torch.float32, (partials, heads))
    expect("partial_sum", partial_sum, torch.float32, (partials, heads))
    expect("out", out, FLOATS, (rows, heads * head_dim))
    merge_states_kernel[(plan.run_rows, triton.cdiv(heads, BLOCK_HEADS))](
        partial_out, partial_max, partial_sum, plan.row_partial_begin, plan.row_partials, plan.counts[run], out, heads,
        D=head_dim, BLOCK_D=triton.next_power_of_2(head_dim), BLOCK_H=BLOCK_HEADS, num_warps=4,
    )  # fmt: skip
