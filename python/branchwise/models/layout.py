"""Matrices as the decoder wants them: q, k, v, gate and up each their own, heads in the order of half-split RoPE.

The kernels turn dimension i of a head together with i + half of it. Where a family turns neighbours, or only a part of
the head, the rows of q and k are put into an order in which that is the same: attention does not notice, for both move
alike. Pairs that are not turned follow the turned ones; their angle is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from branchwise.errors import CheckpointError
from branchwise.models.config import DecoderConfig
from branchwise.text.tokenizer import Tokenizer
from branchwise.weights.blocks import BlockFormat, Blocks
from branchwise.weights.checkpoint import Checkpoint
from branchwise.weights.recommended import Recommended

Order = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Part:
    """Rows [begin, end) of a stored tensor, put in an order."""

    stored: str
    begin: int
    end: int
    order: Order | None


def laid_out(checkpoint: Checkpoint, config: DecoderConfig) -> Checkpoint:
    """The checkpoint with its tensors as the decoder wants them. CheckpointError: a fused tensor of the wrong size."""
    parts = _parts(checkpoint, config)
    return LaidOut(checkpoint, parts) if parts else checkpoint


class LaidOut:
    """A `Checkpoint` some of whose tensors are parts of what is stored."""

    def __init__(self, checkpoint: Checkpoint, parts: dict[str, Part]) -> None:
        self.source = checkpoint.source
        self.config = checkpoint.config
        self._inner = checkpoint
        self._parts = parts

    def files(self) -> list[Path]:
        """See `Checkpoint`."""
        return self._inner.files()

    def recommended(self) -> Recommended:
        """See `Checkpoint`."""
        return self._inner.recommended()

    def names(self) -> set[str]:
        """Those of the parts, not of what they are parts of."""
        return self._inner.names() - {part.stored for part in self._parts.values()} | set(self._parts)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Checkpoint`."""
        if (part := self._parts.get(name)) is None:
            return self._inner.shape(name)
        return (part.end - part.begin, *self._inner.shape(part.stored)[1:])

    def load(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """See `Checkpoint`."""
        if (part := self._parts.get(name)) is None:
            return self._inner.load(name, dtype)
        if part.end - part.begin == self._inner.shape(part.stored)[0]:
            rows = self._inner.load(part.stored, dtype)
        else:
            rows = self._inner.load_rows(part.stored, part.begin, part.end, dtype)
        return rows if part.order is None else rows[torch.from_numpy(part.order)]

    def load_rows(self, name: str, begin: int, end: int, dtype: torch.dtype) -> torch.Tensor:
        """See `Checkpoint`."""
        assert name not in self._parts, name
        return self._inner.load_rows(name, begin, end, dtype)

    def block_format(self, name: str) -> BlockFormat | None:
        """See `Checkpoint`."""
        part = self._parts.get(name)
        return self._inner.block_format(name if part is None else part.stored)

    def load_blocks(self, name: str, begin: int, end: int) -> Blocks:
        """See `Checkpoint`."""
        if (part := self._parts.get(name)) is None:
            return self._inner.load_blocks(name, begin, end)
        if part.order is None:
            return self._inner.load_blocks(part.stored, part.begin + begin, part.begin + end)
        return self._inner.load_blocks(part.stored, part.begin, part.end).rows(part.order[begin:end])

    def tokenizer(self) -> Tokenizer:
        """See `Checkpoint`."""
        return self._inner.tokenizer()


def head_order(config: DecoderConfig) -> Order | None:
    """Which stored dimension of a head comes where; None: as they are."""
    half, turned = config.head_dim // 2, config.rotary_width // 2
    first = np.arange(turned) * 2 if config.family.interleaved else np.arange(turned)
    second = first + (1 if config.family.interleaved else turned)
    still = np.arange(2 * turned, config.head_dim)
    order = np.concatenate([first, still[: half - turned], second, still[half - turned :]])
    return None if (order == np.arange(config.head_dim)).all() else order


def _parts(checkpoint: Checkpoint, config: DecoderConfig) -> dict[str, Part]:
    family, order, names = config.family, head_order(config), checkpoint.names()
    query, key, inner = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim, config.intermediate_size
    parts: dict[str, Part] = {}
    for index in range(config.n_layers):
        layer = f"model.layers.{index}."
        for kind in ("weight", "bias"):
            attention = {"q": query, "k": key, "v": key}
            if family.fused_qkv:
                stored = f"{layer}self_attn.qkv_proj.{kind}"
                to = {f"{layer}self_attn.{name}_proj.{kind}": rows for name, rows in attention.items()}
                parts |= _cut(checkpoint, stored, to) if stored in names else {}
            if family.fused_mlp:
                stored = f"{layer}mlp.gate_up_proj.{kind}"
                to = {f"{layer}mlp.{name}_proj.{kind}": inner for name in ("gate", "up")}
                parts |= _cut(checkpoint, stored, to) if stored in names else {}
            for name, rows in attention.items() if order is not None else ():
                if name != "v":
                    parts |= _ordered(parts, names, f"{layer}self_attn.{name}_proj.{kind}", rows, order)
        for name in ("q_norm", "k_norm") if order is not None else ():
            parts |= _ordered(parts, names, f"{layer}self_attn.{name}.weight", config.head_dim, order)
    return parts


def _cut(checkpoint: Checkpoint, stored: str, rows: dict[str, int]) -> dict[str, Part]:
    """A tensor cut from top to bottom: rows of each part by its name."""
    if checkpoint.shape(stored)[0] != sum(rows.values()):
        raise CheckpointError(
            f"{checkpoint.source}: {stored} has shape {checkpoint.shape(stored)}; its config implies "
            f"{sum(rows.values())} rows"
        )
    parts, begin = {}, 0
    for name, count in rows.items():
        parts[name] = Part(stored, begin, begin + count, None)
        begin += count
    return parts


def _ordered(parts: dict[str, Part], names: set[str], name: str, rows: int, order: Order | None) -> dict[str, Part]:
    """The same part with the rows of every head in `order`."""
    part = parts.get(name, Part(name, 0, rows, None))
    if part.stored not in names or order is None:
        return {}
    heads = np.arange(0, rows, len(order))
    return {name: Part(part.stored, part.begin, part.end, (heads[:, None] + order).reshape(-1))}
