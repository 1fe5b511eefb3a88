"""lm_head and sampling on the device: one product fused with the draw, logits kept only where a filter needs them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from branchwise.backend.base import BANNED, DrawArrays, Drawn, Floats, Penalties
from branchwise.backend.gpu.scratch import Scratch
from branchwise_kernels.lm_head_sample import (
    NEVER_DRAWN,
    DrawTensors,
    HeadWorkspace,
    PenaltyTensors,
    lm_head_sample,
)
from branchwise_kernels.sureness import SureTensors

GROUP_ROWS = 256  # rows drawn at once: bounds the logits that top-k and top-p keep


class TritonSampler:
    """Sampling for one model; weight: [words, hidden]."""

    def __init__(self, weight: Tensor, softcap: float) -> None:
        self.weight = weight
        self.softcap = softcap

    def draw(self, hidden: Tensor, draws: DrawArrays) -> Drawn:
        """A token for every row, read back to the host; hidden: [rows, hidden]."""
        return Drawn.joined([self._draw(hidden, draws, begin) for begin in range(0, len(draws), GROUP_ROWS)])

    def logits(self, hidden: Tensor) -> Tensor:
        """All logits: [rows, words] fp32; hidden: [rows, hidden]."""
        logits = F.linear(hidden, self.weight).float()
        return logits if self.softcap == 0 else torch.tanh(logits / self.softcap) * self.softcap

    def _draw(self, hidden: Tensor, draws: DrawArrays, begin: int) -> Drawn:
        part = slice(begin, begin + GROUP_ROWS)
        device = hidden.device
        rows, penalised = hidden[part].contiguous(), draws.penalties is not None
        sure = None if draws.top is None else SureTensors.empty(len(rows), 1, device)
        tensors = replace(self.draw_tensors(len(rows), penalised), sure=sure)
        fill(tensors, draws, part)
        tokens = torch.empty(len(rows), dtype=torch.int32, device=device)
        logprobs = torch.empty(len(rows), device=device)
        space = self.workspace(len(rows), draws.filtered, penalised, sure is not None)
        self.draw_into(rows, tensors, space, draws.filtered, tokens, logprobs)
        told = None if sure is None else sure.found[0].cpu().numpy()
        return Drawn(tokens.cpu().numpy().astype(np.int64), finite_or_nan(logprobs.cpu().numpy()), told)

    def workspace(
        self, rows: int, filtered: bool, penalised: bool, sure: bool, scratch: Scratch | None = None
    ) -> HeadWorkspace:  # fmt: skip
        """Memory for so many rows, from `scratch` where it may be shared."""
        take = None if scratch is None else scratch.take
        words, device = len(self.weight), self.weight.device
        return HeadWorkspace.empty(rows, words, filtered, device, penalised=penalised, sure=sure, take=take)

    def draw_tensors(self, rows: int, penalised: bool, scratch: Scratch | None = None) -> DrawTensors:
        """Memory for the draws of so many rows; the table of words seen comes from `scratch` where it may be shared."""
        device = self.weight.device

        def column(dtype: torch.dtype) -> Tensor:
            return torch.zeros(rows, dtype=dtype, device=device)

        penalties = None
        if penalised:
            scratch = Scratch(device) if scratch is None else scratch
            seen = scratch.take("seen", (rows, len(self.weight)), torch.int32).zero_()
            off = column(torch.float32)
            penalties = PenaltyTensors(torch.ones_like(off), off, off.clone(), seen)
        return DrawTensors(
            seed=column(torch.int64),
            lineage=column(torch.int64),
            position=column(torch.int32),
            temperature=column(torch.float32),
            top_p=column(torch.float32),
            top_k=column(torch.int32),
            min_p=column(torch.float32),
            penalties=penalties,
        )

    def draw_into(
        self, hidden: Tensor, draws: DrawTensors, workspace: HeadWorkspace, filtered: bool, tokens: Tensor,
        logprobs: Tensor,
    ) -> None:  # fmt: skip
        """The same without the host; tokens: [rows] int32, logprobs: [rows] fp32."""
        lm_head_sample(hidden, self.weight, draws, self.softcap, workspace, tokens, logprobs, filtered=filtered)


def finite_or_nan(logprobs: Floats) -> Floats:
    """NaN, as from the CPU's sampler, wherever a model gave NaN or infinity."""
    return np.where(np.isfinite(logprobs), logprobs, np.float32(np.nan))


def fill(tensors: DrawTensors, draws: DrawArrays, part: slice | None = None) -> None:
    """Copy draws to the first rows of `tensors`; 64-bit keys keep their bits."""
    part = slice(0, len(draws)) if part is None else part
    if tensors.penalties is not None and draws.penalties is not None:
        _fill_penalties(tensors.penalties, draws.penalties.part(part))
    if tensors.sure is not None and draws.top is not None:
        top = draws.top[part]
        tensors.sure.top[: len(top)].copy_(torch.from_numpy(top), non_blocking=True)
    for name in ("seed", "lineage", "position", "temperature", "top_p", "top_k", "min_p"):
        values = getattr(draws, name)[part]
        if values.dtype == np.uint64:
            values = values.view(np.int64)
        getattr(tensors, name)[: len(values)].copy_(torch.from_numpy(values), non_blocking=True)


def _fill_penalties(tensors: PenaltyTensors, penalties: Penalties) -> None:
    device, rows = tensors.seen.device, len(penalties.repetition)
    for name in ("repetition", "presence", "frequency"):
        getattr(tensors, name)[:rows].copy_(torch.from_numpy(getattr(penalties, name)), non_blocking=True)
    row = np.repeat(np.arange(rows), np.diff(penalties.begins))
    where = torch.from_numpy(row).to(device), torch.from_numpy(penalties.words.astype(np.int64)).to(device)
    tensors.seen.zero_()
    marks = np.where(penalties.counts == BANNED, NEVER_DRAWN, penalties.counts + 1)
    tensors.seen[where] = torch.from_numpy(marks).to(device)
