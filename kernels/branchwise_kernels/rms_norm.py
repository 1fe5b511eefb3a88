"""RMS norm (Zhang and Sennrich 2019), alone or behind the residual sum.

out = x / sqrt(mean(x^2) + eps) * w          with add_one the weight is stored as w - 1 (Gemma)
residual += update; out = norm(residual)     the sum is rounded to its dtype before it is normed
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from branchwise_kernels.checks import FLOATS, expect


@triton.jit
def rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, out_ptr, dim, eps,
    BLOCK: tl.constexpr, ADD_ONE: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Program (row)."""
    row = tl.program_id(0).to(tl.int64) * dim
    column = tl.arange(0, BLOCK)
    inside = column < dim
    x = tl.load(x_ptr + row + column, mask=inside, other=0.0).to(tl.float32)
    if RESIDUAL:
        before = tl.load(residual_ptr + row + column, mask=inside, other=0.0).to(tl.float32)
        stored = (before + x).to(residual_ptr.dtype.element_ty)
        tl.store(residual_ptr + row + column, stored, mask=inside)
        x = stored.to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    if ADD_ONE:
        weight += 1.0
    scale = tl.rsqrt(tl.sum(x * x, 0) / dim + eps)
    tl.store(out_ptr + row + column, (x * scale * weight).to(out_ptr.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, out: Tensor, eps: float, add_one: bool) -> None:
    """x, out: [rows, dim]    weight: [dim]."""
    _launch(x, None, weight, out, eps, add_one)


def add_rms_norm(update: Tensor, residual: Tensor, weight: Tensor, out: Tensor, eps: float, add_one: bool) -> None:
    """update, residual (changed in place), out: [rows, dim]    weight: [dim]."""
    expect("residual", residual, update.dtype, tuple(update.shape))
    _launch(update, residual, weight, out, eps, add_one)


def _launch(x: Tensor, residual: Tensor | None, weight: Tensor, out: Tensor, eps: float, add_one: bool) -> None:
    rows, dim = x.shape
    expect("x", x, FLOATS, (rows, dim))
    expect("weight", weight, x.dtype, (dim,))
    expect("out", out, x.dtype, (rows, dim))
    block = triton.next_power_of_2(dim)
    rms_norm_kernel[(rows,)](
        x, x if residual is None else residual, weight, out, dim, eps,
        BLOCK=block, ADD_ONE=add_one, RESIDUAL=residual is not None, num_warps=4 if block <= 4096 else 8,
    )  # fmt: skip
