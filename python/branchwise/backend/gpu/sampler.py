"""lm_head and sampling on the device: one product fused with the draw, logits kept only where a filter needs them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from branchwise.backend.base import DrawArrays, Floats, Ids
from branchwise_kernels.lm_head_sample import DrawTensors, HeadWorkspace, lm_head_sample

GROUP_ROWS = 256  # rows drawn at once: bounds the logits that top-k and top-p keep


class TritonSampler:
    """Sampling for one model; weight: [words, hidden]."""

    def __init__(self, weight: Tensor, softcap: float) -> None:
        self.weight = weight
        self.softcap = softcap

    def draw(self, hidden: Tensor, draws: DrawArrays) -> tuple[Ids, Floats]:
        """Token ids and log-probabilities, read back to the host; hidden: [rows, hidden]."""
        parts = [self._draw(hidden, draws, begin) for begin in range(0, len(draws), GROUP_ROWS)]
        ids, logprobs = zip(*parts, strict=True)
        return np.concatenate(ids), finite_or_nan(np.concatenate(logprobs))

    def _draw(self, hidden: Tensor, draws: DrawArrays, begin: int) -> tuple[Ids, Floats]:
        part = slice(begin, begin + GROUP_ROWS)
        device = hidden.device
        rows = hidden[part].contiguous()
        tensors = draw_tensors(len(rows), device)
        fill(tensors, draws, part)
        tokens = torch.empty(len(rows), dtype=torch.int32, device=device)
        logprobs = torch.empty(len(rows), device=device)
        self.draw_into(rows, tensors, self.workspace(len(rows), draws.filtered), draws.filtered, tokens, logprobs)
        return tokens.cpu().numpy().astype(np.int64), logprobs.cpu().numpy()

    def workspace(self, rows: int, filtered: bool) -> HeadWorkspace:
        """Memory for so many rows."""
        return HeadWorkspace.empty(rows, len(self.weight), filtered, self.weight.device)

    def draw_into(
        self, hidden: Tensor, draws: DrawTensors, workspace: HeadWorkspace, filtered: bool, tokens: Tensor,
        logprobs: Tensor,
    ) -> None:  # fmt: skip
        """The same without the host; tokens: [rows] int32, logprobs: [rows] fp32."""
        lm_head_sample(hidden, self.weight, draws, self.softcap, workspace, tokens, logprobs, filtered=filtered)


def finite_or_nan(logprobs: Floats) -> Floats:
    """NaN, as from the CPU's sampler, wherever a model gave NaN or infinity."""
    return np.where(np.isfinite(logprobs), logprobs, np.float32(np.nan))


def draw_tensors(rows: int, device: torch.device) -> DrawTensors:
    """Memory for the draws of so many rows."""

    def column(dtype: torch.dtype) -> Tensor:
        return torch.zeros(rows, dtype=dtype, device=device)

    return DrawTensors(
        seed=column(torch.int64),
        lineage=column(torch.int64),
        position=column(torch.int32),
        temperature=column(torch.float32),
        top_p=column(torch.float32),
        top_k=column(torch.int32),
        min_p=column(torch.float32),
    )


def fill(tensors: DrawTensors, draws: DrawArrays, part: slice = slice(None)) -> None:
    """Copy draws to the first rows of `tensors`; 64-bit keys keep their bits."""
    for name in ("seed", "lineage", "position", "temperature", "top_p", "top_k", "min_p"):
        values = getattr(draws, name)[part]
        if values.dtype == np.uint64:
            values = values.view(np.int64)
        getattr(tensors, name)[: len(values)].copy_(torch.from_numpy(values), non_blocking=True)
