"""From the hidden states at the ends of steps to P(good), in one launch.

    pair, value:  p = sigmoid(h . w + b)                          w = W[good] - W[bad] for a token pair
    mlp:          p = sigmoid(relu(h W0^T + b0) . w + b)          w = W2[1] - W2[0], b likewise

A softmax over two labels is the sigmoid of their difference. The hidden layer of the MLP is computed in tiles by many
programs; the last one to arrive adds the tiles up, always in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from branchwise_kernels.checks import FLOATS, expect

BLOCK_ROWS, BLOCK_K, BLOCK_INNER = 16, 32, 64


@dataclass(frozen=True)
class PrmHeadWeights:
    """direction: [inner or hidden] fp32    bias: [1] fp32    inner: [inner, hidden], inner_bias: [inner], or None."""

    direction: Tensor
    bias: Tensor
    inner: Tensor | None = None
    inner_bias: Tensor | None = None

    @classmethod
    def of(cls, kind: str, tensors: list[Tensor]) -> PrmHeadWeights:
        """From a head's own fp32 tensors: pair [2, hidden]; value [1, hidden], [1]; mlp W0, b0, W2 [2, inner], b2."""
        first = tensors[0]
        if kind == "pair":
            return cls((first[0] - first[1]).contiguous(), torch.zeros(1, device=first.device))
        if kind == "value":
            return cls(first[0].contiguous(), tensors[1].contiguous())
        inner, inner_bias, outer, outer_bias = tensors
        return cls((outer[1] - outer[0]).contiguous(), outer_bias[1:] - outer_bias[:1], inner, inner_bias)


@triton.jit
def conclude(logit, row, live, probability_ptr):
    """Stores p; row: [rows], logit likewise."""
    tl.store(probability_ptr + row, 1.0 / (1.0 + tl.exp(-logit)), mask=live)


@triton.jit
def linear_head_kernel(
    hidden_ptr, direction_ptr, bias_ptr, probability_ptr, rows, dim, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """Program (rows)."""
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = row < rows
    start_of_row = row.to(tl.int64) * dim
    logit = tl.zeros((BLOCK_R,), tl.float32)
    for start in range(0, dim, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = live[:, None] & (k < dim)[None, :]
        h = tl.load(hidden_ptr + start_of_row[:, None] + k[None, :], mask=inside, other=0.0)
        w = tl.load(direction_ptr + k, mask=k < dim, other=0.0)
        logit += tl.sum(h.to(tl.float32) * w[None, :], 1)
    conclude(logit + tl.load(bias_ptr), row, live, probability_ptr)


@triton.jit
def mlp_head_kernel(
    hidden_ptr, inner_ptr, inner_bias_ptr, direction_ptr, bias_ptr, part_ptr, arrived_ptr, probability_ptr, rows, dim,
    inner_dim, tiles, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Program (rows, tile of the hidden layer)."""
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    live = row < rows
    start_of_row = row.to(tl.int64) * dim
    i = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    there = i < inner_dim
    value = tl.zeros((BLOCK_R, BLOCK_I), tl.float32)
    for start in range(0, dim, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = (k < dim)[None, :]
        at = start_of_row[:, None] + k[None, :]
        h = tl.load(hidden_ptr + at, mask=live[:, None] & inside, other=0.0).to(tl.float32)
        w = tl.load(inner_ptr + i.to(tl.int64)[:, None] * dim + k[None, :], mask=there[:, None] & inside, other=0.0)
        value = tl.dot(h, tl.trans(w), value, input_precision="ieee")
    value = tl.maximum(value + tl.load(inner_bias_ptr + i, mask=there, other=0.0)[None, :], 0.0)
    part = tl.sum(value * tl.load(direction_ptr + i, mask=there, other=0.0)[None, :], 1)
    tl.store(part_ptr + row * tiles + tl.program_id(1), part, mask=live)
    tl.debug_barrier()  # the whole tile is stored before this program says so
    if tl.atomic_add(arrived_ptr + tl.program_id(0), 1, sem="acq_rel") == tiles - 1:
        logit = tl.zeros((BLOCK_R,), tl.float32) + tl.load(bias_ptr)
        for tile in range(tiles):
            logit += tl.load(part_ptr + row * tiles + tile, mask=live, other=0.0, cache_modifier=".cg")
        conclude(logit, row, live, probability_ptr)


def prm_head(hidden: Tensor, weights: PrmHeadWeights, probability: Tensor) -> None:
    """One launch; for the MLP, two small buffers are allocated. hidden: [n, dim]    probability: [n] fp32."""
    n, dim = hidden.shape
    expect("hidden", hidden, FLOATS, (n, dim))
    expect("direction", weights.direction, torch.float32, (-1 if weights.inner is not None else dim,))
    expect("probability", probability, torch.float32, (n,))
    groups = triton.cdiv(n, BLOCK_ROWS)
    if weights.inner is None:
        linear_head_kernel[(groups,)](
            hidden, weights.direction, weights.bias, probability, n, dim,
            BLOCK_R=BLOCK_ROWS, BLOCK_K=BLOCK_K, num_warps=4,
        )  # fmt: skip
        return
    inner_dim = len(weights.inner)
    expect("inner", weights.inner, torch.float32, (inner_dim, dim))
    tiles = triton.cdiv(inner_dim, BLOCK_INNER)
    part = torch.empty(n, tiles, device=hidden.device)
    arrived = torch.zeros(groups, dtype=torch.int32, device=hidden.device)
    mlp_head_kernel[(groups, tiles)](
        hidden, weights.inner, weights.inner_bias, weights.direction, weights.bias, part, arrived, probability, n,
        dim, inner_dim, tiles, BLOCK_R=BLOCK_ROWS, BLOCK_K=BLOCK_K, BLOCK_I=BLOCK_INNER, num_warps=4,
    )  # fmt: skip
