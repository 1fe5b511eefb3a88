"""From the hidden states at the ends of steps to P(good) and each branch's aggregates, in one launch.

    pair, value:  p = sigmoid(h . w + b)                          w = W[good] - W[bad] for a token pair
    mlp:          p = sigmoid(relu(h W0^T + b0) . w + b)          w = W2[1] - W2[0], b likewise
    min = min(min, p)    last = p    prod = prod * p    mean = mean + (p - mean) / (count + 1)    count = count + 1

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

BLOCK_ENDS, BLOCK_K, BLOCK_INNER = 16, 32, 64


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
def conclude(logit, end, live, probability_ptr, aggregate_ptr, count_ptr):
    """Stores p and brings the four aggregates of each branch up to date; end: [ends], logit likewise."""
    p = 1.0 / (1.0 + tl.exp(-logit))
    tl.store(probability_ptr + end, p, mask=live)
    count = tl.load(count_ptr + end, mask=live, other=0)
    own = aggregate_ptr + end * 4
    lowest = tl.where(count > 0, tl.load(own, mask=live, other=0.0), 1.0)
    product = tl.where(count > 0, tl.load(own + 2, mask=live, other=0.0), 1.0)
    mean = tl.where(count > 0, tl.load(own + 3, mask=live, other=0.0), 0.0)
    tl.store(own, tl.minimum(lowest, p), mask=live)
    tl.store(own + 1, p, mask=live)
    tl.store(own + 2, product * p, mask=live)
    tl.store(own + 3, mean + (p - mean) / (count + 1), mask=live)
    tl.store(count_ptr + end, count + 1, mask=live)


@triton.jit
def linear_head_kernel(
    hidden_ptr, end_ptr, direction_ptr, bias_ptr, probability_ptr, aggregate_ptr, count_ptr, ends, dim,
    BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Program (ends)."""
    end = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    live = end < ends
    row = tl.load(end_ptr + end, mask=live, other=0).to(tl.int64) * dim
    logit = tl.zeros((BLOCK_E,), tl.float32)
    for start in range(0, dim, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        h = tl.load(hidden_ptr + row[:, None] + k[None, :], mask=live[:, None] & (k < dim)[None, :], other=0.0)
        w = tl.load(direction_ptr + k, mask=k < dim, other=0.0)
        logit += tl.sum(h.to(tl.float32) * w[None, :], 1)
    conclude(logit + tl.load(bias_ptr), end, live, probability_ptr, aggregate_ptr, count_ptr)


@triton.jit
def mlp_head_kernel(
    hidden_ptr, end_ptr, inner_ptr, inner_bias_ptr, direction_ptr, bias_ptr, part_ptr, arrived_ptr, probability_ptr,
    aggregate_ptr, count_ptr, ends, dim, inner_dim, tiles,
    BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Program (ends, tile of the hidden layer)."""
    end = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    live = end < ends
    row = tl.load(end_ptr + end, mask=live, other=0).to(tl.int64) * dim
    i = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    there = i < inner_dim
    value = tl.zeros((BLOCK_E, BLOCK_I), tl.float32)
    for start in range(0, dim, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = (k < dim)[None, :]
        h = tl.load(hidden_ptr + row[:, None] + k[None, :], mask=live[:, None] & inside, other=0.0).to(tl.float32)
        w = tl.load(inner_ptr + i.to(tl.int64)[:, None] * dim + k[None, :], mask=there[:, None] & inside, other=0.0)
        value = tl.dot(h, tl.trans(w), value, input_precision="ieee")
    value = tl.maximum(value + tl.load(inner_bias_ptr + i, mask=there, other=0.0)[None, :], 0.0)
    part = tl.sum(value * tl.load(direction_ptr + i, mask=there, other=0.0)[None, :], 1)
    tl.store(part_ptr + end * tiles + tl.program_id(1), part, mask=live)
    tl.debug_barrier()  # the whole tile is stored before this program says so
    if tl.atomic_add(arrived_ptr + tl.program_id(0), 1, sem="acq_rel") == tiles - 1:
        logit = tl.zeros((BLOCK_E,), tl.float32) + tl.load(bias_ptr)
        for tile in range(tiles):
            logit += tl.load(part_ptr + end * tiles + tile, mask=live, other=0.0, cache_modifier=".cg")
        conclude(logit, end, live, probability_ptr, aggregate_ptr, count_ptr)


def prm_head(
    hidden: Tensor, ends: Tensor, weights: PrmHeadWeights, probability: Tensor, aggregates: Tensor, counts: Tensor
) -> None:
    """One launch; for the MLP, two small buffers are allocated.

    hidden: [rows, dim]    ends: [n] int32, rows of `hidden`    probability: [n] fp32
    aggregates: [n, 4] fp32, min, last, prod, mean so far    counts: [n] int32, steps so far (0: aggregates not read)
    """
    n, dim = len(ends), hidden.shape[1]
    expect("hidden", hidden, FLOATS, (-1, dim))
    expect("ends", ends, torch.int32, (n,))
    expect("direction", weights.direction, torch.float32, (-1 if weights.inner is not None else dim,))
    expect("probability", probability, torch.float32, (n,))
    expect("aggregates", aggregates, torch.float32, (n, 4))
    expect("counts", counts, torch.int32, (n,))
    outputs = probability, aggregates, counts
    groups = triton.cdiv(n, BLOCK_ENDS)
    if weights.inner is None:
        linear_head_kernel[(groups,)](
            hidden, ends, weights.direction, weights.bias, *outputs, n, dim,
            BLOCK_E=BLOCK_ENDS, BLOCK_K=BLOCK_K, num_warps=4,
        )  # fmt: skip
        return
    inner_dim = len(weights.inner)
    expect("inner", weights.inner, torch.float32, (inner_dim, dim))
    tiles = triton.cdiv(inner_dim, BLOCK_INNER)
    part = torch.empty(n, tiles, device=hidden.device)
    arrived = torch.zeros(groups, dtype=torch.int32, device=hidden.device)
    mlp_head_kernel[(groups, tiles)](
        hidden, ends, weights.inner, weights.inner_bias, weights.direction, weights.bias, part, arrived, *outputs, n,
        dim, inner_dim, tiles, BLOCK_E=BLOCK_ENDS, BLOCK_K=BLOCK_K, BLOCK_I=BLOCK_INNER, num_warps=4,
    )  # fmt: skip
