"""lm_head and sampling, fused: two launches, nothing sorted, logits stored only where a filter needs them.

    l = softcap(h W^T)    z = penalised(l) / T
    token = argmax over the allowed words of z - log(-log u)    (Gumbel 1954)
    logprob = l[token] - logsumexp(l), over all words, at temperature 1, without penalties

First a GEMM tile is reduced, while in registers, to seven numbers per row: max and sum of exp of l and of z, and the
best draw. Then one program per row folds the tiles and, where the row restricts its words, `nucleus` draws again among
them. Where somebody asks how sure the model was, a tile leaves the sum and number of its finite l, too, and its logits
are stored for `sureness`: a third launch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from branchwise_kernels.checks import FLOATS, expect
from branchwise_kernels.nucleus import redraw
from branchwise_kernels.philox import gumbel, tile_bits
from branchwise_kernels.sureness import STATS, SureTensors, sureness

BLOCK_V = 128  # words of a tile
NEVER_DRAWN = -1  # in the table of words seen


@dataclass(frozen=True)
class PenaltyTensors:
    """What rows take from the logits of words they have seen. repetition, presence, frequency: [rows] fp32.

    seen: [rows, words] int32; 0: never, else 1 + times written; NEVER_DRAWN: the row has no such word. A draw counts
    itself, so that bursts need no host
    """

    repetition: Tensor
    presence: Tensor
    frequency: Tensor
    seen: Tensor


@dataclass(frozen=True)
class DrawTensors:
    """How each row is drawn; all [rows]. temperature 0: greedy; top_p 1, top_k 0, min_p 0: filter off.

    seed, lineage int64 (the bits of a uint64)    position, top_k int32    temperature, top_p, min_p fp32
    penalties: None where no row has any    sure: None where no row asks how sure the model was
    """

    seed: Tensor
    lineage: Tensor
    position: Tensor
    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    min_p: Tensor
    penalties: PenaltyTensors | None = None
    sure: SureTensors | None = None


Take = Callable[[str, "tuple[int, ...]", torch.dtype], Tensor]


@dataclass(frozen=True)
class HeadWorkspace:
    """Scratch memory. stats: [rows, 7 or STATS, tiles] fp32; logits: [rows, words] fp32 and words int32, with filters.

    raw: logits before penalties, the same memory as `logits` where there are none
    sure: whether rows may ask how sure the model was, which takes more stats, and raw logits without filters, too
    """

    stats: Tensor
    logits: Tensor
    words: Tensor
    raw: Tensor

    @classmethod
    def empty(
        cls, rows: int, words: int, filtered: bool, device: torch.device, *, penalised: bool = False,
        sure: bool = False, take: Take | None = None,
    ) -> HeadWorkspace:  # fmt: skip
        """Memory for so many rows. take: where from, (name, shape, dtype) -> tensor; default: memory of its own."""

        def own(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        take = own if take is None else take
        kept, none = (rows, words), (rows, 1)
        logits = take("logits", kept if filtered or (sure and not penalised) else none, torch.float32)
        return cls(
            take("stats", (rows, STATS if sure else 7, triton.cdiv(words, BLOCK_V)), torch.float32),
            logits,
            take("words", kept if filtered else none, torch.int32),
            take("raw", kept, torch.float32) if penalised and (filtered or sure) else logits,
        )


@triton.jit
def penalised(logit, seen, repetition, presence, frequency):
    """What is left of logits; a row's numbers broadcast over its words."""
    left = tl.where(logit > 0, logit / repetition, logit * repetition)
    left = left - frequency * (seen - 1).to(tl.float32) - tl.where(seen > 1, presence, 0.0)
    # Finite also when divided by the least temperature: a tile of such words alone must not make NaN.
    return tl.where(seen < 0, -1e30, tl.where(seen > 0, left, logit))


@triton.jit
def lm_head_tile_kernel(
    hidden_ptr, weight_ptr, seed_ptr, lineage_ptr, position_ptr, temperature_ptr, stats_ptr, logits_ptr, raw_ptr,
    repetition_ptr, presence_ptr, frequency_ptr, seen_ptr, rows, words, dim, tiles, softcap,
    BLOCK_R: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr, SOFTCAP: tl.constexpr,
    FILTERED: tl.constexpr, PENALISED: tl.constexpr, SURE: tl.constexpr, STATS: tl.constexpr,
):  # fmt: skip
    """Program (rows, words): neighbours share the weights."""
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    first = tl.program_id(1) * BLOCK_V
    word = first + tl.arange(0, BLOCK_V)
    live, known = row < rows, word < words
    k = tl.arange(0, BLOCK_K)
    h_offset = row.to(tl.int64)[:, None] * dim + k[None, :]
    w_offset = word.to(tl.int64)[:, None] * dim + k[None, :]
    logit = tl.zeros((BLOCK_R, BLOCK_V), tl.float32)
    for start in range(0, dim, BLOCK_K):
        inside = (k < dim - start)[None, :]
        h_mask = live[:, None] if EVEN_K else live[:, None] & inside
        w_mask = known[:, None] if EVEN_K else known[:, None] & inside
        h = tl.load(hidden_ptr + h_offset + start, mask=h_mask, other=0.0)
        w = tl.load(weight_ptr + w_offset + start, mask=w_mask, other=0.0)
        logit = tl.dot(h, tl.trans(w), logit, input_precision="ieee")
    if SOFTCAP:
        logit = softcap * (1.0 - 2.0 / (1.0 + tl.exp2(2.8853900817779268 * logit / softcap)))
    raw = tl.where(known[None, :], logit, float("-inf"))
    kept = row.to(tl.int64)[:, None] * words + word[None, :]
    there = live[:, None] & known[None, :]
    if PENALISED:
        if FILTERED or SURE:
            tl.store(raw_ptr + kept, logit, mask=there)
        seen = tl.load(seen_ptr + kept, mask=there, other=0)
        repetition = tl.load(repetition_ptr + row, mask=live, other=1.0)
        presence = tl.load(presence_ptr + row, mask=live, other=0.0)
        frequency = tl.load(frequency_ptr + row, mask=live, other=0.0)
        logit = penalised(logit, seen, repetition[:, None], presence[:, None], frequency[:, None])
    if FILTERED or (SURE and not PENALISED):
        tl.store(logits_ptr + kept, logit, mask=there)
    logit = tl.where(known[None, :], logit, float("-inf"))

    temperature = tl.load(temperature_ptr + row, mask=live, other=0.0)
    warm = temperature > 0
    z = logit * (1.0 / tl.where(warm, temperature, 1.0))[:, None]
    seed = tl.load(seed_ptr + row, mask=live, other=0)
    lineage = tl.load(lineage_ptr + row, mask=live, other=0)
    position = tl.load(position_ptr + row, mask=live, other=0)
    noise = gumbel(tile_bits(seed, lineage, position, first, BLOCK_V))
    score = z + tl.where(warm[:, None], noise, 0.0)

    raw_max, z_max, best = tl.max(raw, 1), tl.max(z, 1), tl.max(score, 1)
    raw_sum = tl.sum(tl.exp(raw - raw_max[:, None]), 1)
    z_sum = tl.sum(tl.exp(z - z_max[:, None]), 1)
    chosen = tl.min(tl.where(score == best[:, None], word[None, :], 2147483647), 1)  # ties: the lowest word
    chosen_logit = tl.max(tl.where(word[None, :] == chosen[:, None], raw, float("-inf")), 1)
    stats = stats_ptr + row.to(tl.int64) * STATS * tiles + tl.program_id(1)
    tl.store(stats, raw_max, mask=live)
    tl.store(stats + tiles, raw_sum, mask=live)
    tl.store(stats + 2 * tiles, z_max, mask=live)
    tl.store(stats + 3 * tiles, z_sum, mask=live)
    tl.store(stats + 4 * tiles, best, mask=live)
    tl.store(stats + 5 * tiles, chosen.to(tl.float32, bitcast=True), mask=live)
    tl.store(stats + 6 * tiles, chosen_logit, mask=live)
    if SURE:
        finite = raw > float("-inf")
        tl.store(stats + 7 * tiles, tl.sum(tl.where(finite, raw, 0.0), 1), mask=live)
        tl.store(stats + 8 * tiles, tl.sum(finite.to(tl.float32), 1), mask=live)


@triton.jit
def lm_head_choose_kernel(
    stats_ptr, logits_ptr, raw_ptr, words_ptr, seed_ptr, lineage_ptr, position_ptr, temperature_ptr, top_p_ptr,
    top_k_ptr, min_p_ptr, seen_ptr, token_ptr, logprob_ptr, words, tiles,
    BLOCK_T: tl.constexpr, BLOCK: tl.constexpr, FILTERED: tl.constexpr, PENALISED: tl.constexpr, STATS: tl.constexpr,
):  # fmt: skip
    """Program (row)."""
    row = tl.program_id(0)
    tile = tl.arange(0, BLOCK_T)
    there = tile < tiles
    stats = stats_ptr + row.to(tl.int64) * STATS * tiles + tile
    raw_max = tl.load(stats, mask=there, other=float("-inf"))
    raw_top = tl.max(raw_max, 0)
    raw_sum = tl.sum(tl.load(stats + tiles, mask=there, other=0.0) * tl.exp(raw_max - raw_top), 0)
    score = tl.load(stats + 4 * tiles, mask=there, other=float("-inf"))
    chosen = tl.load(stats + 5 * tiles, mask=there, other=0.0).to(tl.int32, bitcast=True)
    token = tl.min(tl.where(score == tl.max(score, 0), chosen, 2147483647), 0)
    logit = tl.load(stats + 6 * tiles, mask=there, other=float("-inf"))
    token_logit = tl.max(tl.where(there & (chosen == token), logit, float("-inf")), 0)
    if FILTERED:
        top_p, top_k = tl.load(top_p_ptr + row), tl.load(top_k_ptr + row)
        min_p, temperature = tl.load(min_p_ptr + row), tl.load(temperature_ptr + row)
        if (temperature > 0) & ((top_p < 1) | (top_k > 0) | (min_p > 0)):
            z_max = tl.load(stats + 2 * tiles, mask=there, other=float("-inf"))
            z_top = tl.max(z_max, 0)
            z_sum = tl.sum(tl.load(stats + 3 * tiles, mask=there, other=0.0) * tl.exp(z_max - z_top), 0)
            offset = row.to(tl.int64) * words
            token = redraw(
                logits_ptr + offset, words_ptr + offset, words, z_top, z_sum, 1.0 / temperature, top_p, top_k, min_p,
                tl.load(seed_ptr + row), tl.load(lineage_ptr + row), tl.load(position_ptr + row), BLOCK,
            )  # fmt: skip
            token_logit = tl.load(raw_ptr + offset + token) if PENALISED else tl.load(logits_ptr + offset + token)
    token = tl.minimum(token, words - 1)  # logits of NaN choose none; the automaton looks words up by it
    if PENALISED:
        seen = seen_ptr + row.to(tl.int64) * words + token
        tl.store(seen, tl.maximum(tl.load(seen), 1) + 1)
    tl.store(token_ptr + row, token)
    tl.store(logprob_ptr + row, token_logit - raw_top - tl.log(raw_sum))


def lm_head_sample(
    hidden: Tensor, weight: Tensor, draws: DrawTensors, softcap: float, workspace: HeadWorkspace, tokens: Tensor,
    logprobs: Tensor, filtered: bool,
) -> None:  # fmt: skip
    """Draw one token per row; two launches, three where `draws.sure` asks for more.

    hidden: [rows, dim]    weight: [words, dim], same dtype    softcap: 0 for none    tokens: [rows] int32
    logprobs: [rows] fp32; not finite where the logits hold NaN or infinity    filtered: some row restricts its words
    """
    (rows, dim), words = hidden.shape, len(weight)
    tiles = triton.cdiv(words, BLOCK_V)
    sure, penalised = draws.sure is not None, draws.penalties is not None
    stats = STATS if sure else 7
    expect("hidden", hidden, FLOATS, (rows, dim))
    expect("weight", weight, hidden.dtype, (words, dim))
    expect("tokens", tokens, torch.int32, (rows,))
    expect("logprobs", logprobs, torch.float32, (rows,))
    expect("workspace.stats", workspace.stats, torch.float32, (rows, stats, tiles))
    kept = filtered or (sure and not penalised)
    expect("workspace.logits", workspace.logits, torch.float32, (rows, words if kept else -1))
    for name in ("seed", "lineage", "position", "temperature", "top_p", "top_k", "min_p"):
        dtype = torch.int64 if name in ("seed", "lineage") else torch.int32 if name in ("position", "top_k") else None
        expect(name, getattr(draws, name), dtype or torch.float32, (rows,))
    given = draws.penalties or PenaltyTensors(draws.temperature, draws.temperature, draws.temperature, draws.position)
    if penalised:
        for name in ("repetition", "presence", "frequency"):
            expect(name, getattr(given, name), torch.float32, (rows,))
        expect("seen", given.seen, torch.int32, (rows, words))
        expect("workspace.raw", workspace.raw, torch.float32, (rows, words if filtered or sure else -1))
    block_r = 16 if rows <= 16 else 64
    block_k = 32 if hidden.dtype == torch.float32 else 64
    lm_head_tile_kernel[(triton.cdiv(rows, block_r), tiles)](
        hidden, weight, draws.seed, draws.lineage, draws.position, draws.temperature, workspace.stats,
        workspace.logits, workspace.raw, given.repetition, given.presence, given.frequency, given.seen,
        rows, words, dim, tiles, softcap,
        BLOCK_R=block_r, BLOCK_V=BLOCK_V, BLOCK_K=block_k, EVEN_K=dim % block_k == 0, SOFTCAP=softcap > 0,
        FILTERED=filtered, PENALISED=penalised, SURE=sure, STATS=stats, num_warps=4 if block_r == 16 else 8,
        num_stages=3,
    )  # fmt: skip
    lm_head_choose_kernel[(rows,)](
        workspace.stats, workspace.logits, workspace.raw, workspace.words, draws.seed, draws.lineage, draws.position,
        draws.temperature, draws.top_p, draws.top_k, draws.min_p, given.seen, tokens, logprobs, words, tiles,
        BLOCK_T=triton.next_power_of_2(tiles), BLOCK=256, FILTERED=filtered, PENALISED=penalised, STATS=stats,
        num_warps=8, maxnreg=255,
    )  # fmt: skip
    if draws.sure is not None:
        sureness(workspace.stats, workspace.raw, draws.sure, BLOCK_V)
