"""How sure the model was of what it drew, from what the lm_head product left of its tiles; one launch, nothing sorted.

    confidence = logsumexp(l) - mean of the k largest l      (DeepConf, arXiv 2508.15260)
    certainty  = logsumexp(l) - mean(l) - log V              (KL(uniform || p), arXiv 2502.18581)

over the logits l at temperature 1, without penalties, those of -inf left out. The k largest lie in the k tiles of the
largest maxima, so that of 150,000 logits a row reads k * 128 again. The k-th largest of these is found bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from branchwise_kernels.checks import expect

MOST_TOP = 32  # k at most: tiles that are read again
STATS = 9  # numbers that a tile leaves of a row: see `lm_head_sample`


@dataclass(frozen=True)
class SureTensors:
    """Who asks, and where the answers go.

    top: [rows] int32, the k of each row, at most MOST_TOP; 0: not told
    found: [iterations, rows, 2] fp32, confidence and certainty; NaN where not told
    iteration: [1] int32, the part of `found` that is written
    """

    top: Tensor
    found: Tensor
    iteration: Tensor

    @classmethod
    def empty(cls, rows: int, iterations: int, device: torch.device, iteration: Tensor | None = None) -> SureTensors:
        """Nobody asks yet."""
        return cls(
            torch.zeros(rows, dtype=torch.int32, device=device),
            torch.full((iterations, rows, 2), float("nan"), device=device),
            torch.zeros(1, dtype=torch.int32, device=device) if iteration is None else iteration,
        )


@triton.jit
def count(mask):
    """How many are true, in floats: sums of truth values go through the stack."""
    return tl.sum(tl.sum(tl.where(mask, 1.0, 0.0), 1), 0)


@triton.jit
def largest_sum(value, k):
    """Sum of the k largest of a [slots, words] tile; at least k of them are finite."""
    bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # integers that order as the floats do
    cut = tl.full((), -2147483648, tl.int64)
    for step in range(32):
        probe = cut + (tl.full((), 1, tl.int64) << (31 - step))
        cut = tl.where(count(key >= probe.to(tl.int32)) >= k, probe, cut)
    least = cut.to(tl.int32)
    above = key > least
    tied = tl.max(tl.max(tl.where(key == least, value, float("-inf")), 1), 0)
    return tl.sum(tl.sum(tl.where(above, value, 0.0), 1), 0) + (k - count(above)) * tied


@triton.jit
def sureness_kernel(
    stats_ptr, raw_ptr, top_ptr, found_ptr, iteration_ptr, rows, words, tiles,
    STATS: tl.constexpr, SLOTS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Program (row)."""
    row = tl.program_id(0)
    found = found_ptr + (tl.load(iteration_ptr).to(tl.int64) * rows + row) * 2
    k = tl.load(top_ptr + row)
    if k > 0:
        tile = tl.arange(0, BLOCK_T)
        there = tile < tiles
        stats = stats_ptr + row.to(tl.int64) * STATS * tiles + tile
        peak = tl.load(stats, mask=there, other=float("-inf"))
        top = tl.max(peak, 0)
        log_sum = top + tl.log(tl.sum(tl.load(stats + tiles, mask=there, other=0.0) * tl.exp(peak - top), 0))
        total = tl.sum(tl.load(stats + 7 * tiles, mask=there, other=0.0), 0)
        n = tl.sum(tl.load(stats + 8 * tiles, mask=there, other=0.0), 0)
        k = tl.minimum(k, n.to(tl.int32))
        slots = tl.minimum(k, tiles)
        slot = tl.arange(0, SLOTS)
        chosen = tl.full((SLOTS,), 0, tl.int32)
        for i in range(0, slots):
            place = tl.min(tl.where(peak == tl.max(peak, 0), tile, 2147483647), 0)
            chosen = tl.where(slot == i, place, chosen)
            peak = tl.where(tile == place, float("-inf"), peak)
        word = chosen.to(tl.int64)[:, None] * BLOCK_V + tl.arange(0, BLOCK_V)[None, :]
        inside = (slot < slots)[:, None] & (word < words)
        value = tl.load(raw_ptr + row.to(tl.int64) * words + word, mask=inside, other=float("-inf"))
        wanted = k.to(tl.float32)
        tl.store(found, log_sum - largest_sum(value, wanted) / wanted)
        tl.store(found + 1, log_sum - total / n - tl.log(n))
    else:
        tl.store(found, float("nan"))
        tl.store(found + 1, float("nan"))


def sureness(stats: Tensor, raw: Tensor, sure: SureTensors, block_v: int) -> None:
    """Tell the rows that ask; one launch.

    stats: [rows, STATS, tiles] fp32    raw: [rows, words] fp32, logits before penalties    block_v: words of a tile
    """
    (rows, words), tiles = raw.shape, stats.shape[2]
    expect("stats", stats, torch.float32, (rows, STATS, triton.cdiv(words, block_v)))
    expect("raw", raw, torch.float32, (rows, words))
    expect("top", sure.top, torch.int32, (rows,))
    expect("found", sure.found, torch.float32, (len(sure.found), rows, 2))
    expect("iteration", sure.iteration, torch.int32, (1,))
    sureness_kernel[(rows,)](
        stats, raw, sure.top, sure.found, sure.iteration, rows, words, tiles,
        STATS=STATS, SLOTS=MOST_TOP, BLOCK_T=triton.next_power_of_2(tiles), BLOCK_V=block_v, num_warps=8,
    )  # fmt: skip
