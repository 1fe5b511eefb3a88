"""The gate of the MLP: out = act(gate) * up.

silu(x) = x / (1 + e^-x)          gelu(x) = x / (1 + e^(-2 sqrt(2/pi) (x + 0.044715 x^3))), the tanh form rewritten
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from branchwise_kernels.checks import FLOATS, expect

BLOCK = 1024


@triton.jit
def gated_activation_kernel(gate_up_ptr, out_ptr, dim, GELU: tl.constexpr, BLOCK: tl.constexpr):
    """Program (row, block of columns)."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < dim
    gate = tl.load(gate_up_ptr + row * 2 * dim + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * 2 * dim + dim + column, mask=inside, other=0.0).to(tl.float32)
    slope = gate
    if GELU:
        slope = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    value = gate / (1.0 + tl.exp(-slope)) * up
    tl.store(out_ptr + row * dim + column, value.to(out_ptr.dtype.element_ty), mask=inside)


def silu_mul(gate_up: Tensor, out: Tensor) -> None:
    """gate_up: [rows, 2 * dim], gate first    out: [rows, dim]."""
    _launch(gate_up, out, gelu=False)


def gelu_mul(gate_up: Tensor, out: Tensor) -> None:
    """gate_up: [rows, 2 * dim], gate first    out: [rows, dim]."""
    _launch(gate_up, out, gelu=True)


def _launch(gate_up: Tensor, out: Tensor, gelu: bool) -> None:
    rows, dim = out.shape
    expect("gate_up", gate_up, FLOATS, (rows, 2 * dim))
    expect("out", out, gate_up.dtype, (rows, dim))
    gated_activation_kernel[(rows, triton.cdiv(dim, BLOCK))](gate_up, out, dim, GELU=gelu, BLOCK=BLOCK, num_warps=4)
