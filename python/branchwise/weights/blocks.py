"""Weights as small integers: a matrix cut into groups that share a scale, and how a dense matrix becomes one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from branchwise import _C
from branchwise.errors import ConfigError

Codes = NDArray[np.uint8]
Floats = NDArray[np.float32]
HALF_BITS = 16  # a scale or minimum, as kernels keep it


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """bits of a code: 4, 5, 6 or 8    group: inputs that share a scale, 16 or 32; 0: all inputs of an output do.

    With minima a weight is scale * code + minimum, without scale * (code - 2^(bits - 1)).
    """

    bits: int
    group: int
    has_minima: bool

    @property
    def bits_per_weight(self) -> float:
        """Scales and minima included, those of whole outputs not."""
        return self.bits + (HALF_BITS * (1 + self.has_minima) / self.group if self.group else 0)


QUANTISED = {
    "int8": BlockFormat(8, 0, has_minima=False),
    "q8": BlockFormat(8, 32, has_minima=False),
    "q4": BlockFormat(4, 32, has_minima=True),
}
"""What a dense matrix can be quantised to, by the name that `EngineConfig.weights` takes."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix [out, in] in a block format.

    codes: [out, in] uint8    scales: [out, in / group] fp32, [out, 1] for group 0    minima: as scales, or None
    """

    format: BlockFormat
    codes: Codes
    scales: Floats
    minima: Floats | None = None

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.codes.shape

    def rows(self, order: NDArray[np.int64]) -> Blocks:
        """The rows in another order, or some of them."""
        minima = None if self.minima is None else self.minima[order]
        return Blocks(self.format, self.codes[order], self.scales[order], minima)

    def dense(self) -> Tensor:
        """[out, in] fp32."""
        width = self.codes.shape[1] // self.scales.shape[1]
        scales = self.scales.repeat(width, axis=1)
        if self.minima is not None:
            return torch.from_numpy(scales * self.codes + self.minima.repeat(width, axis=1))
        return torch.from_numpy(scales * (self.codes.astype(np.float32) - 2.0 ** (self.format.bits - 1)))


Matrix = Tensor | Blocks
"""A weight [out, in], dense or in blocks."""


def stack(parts: list[Blocks]) -> Blocks:
    """Blocks of one format under each other."""
    if len(parts) == 1:
        return parts[0]
    minima = [part.minima for part in parts if part.minima is not None]
    return Blocks(
        parts[0].format,
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate(minima) if minima else None,
    )


def quantise(weight: Tensor, form: BlockFormat, name: str = "the matrix") -> Blocks:
    """Round a matrix to the nearest codes, each group over its own range.

    weight: [out, in] fp32    ConfigError: `in` is not a multiple of the group
    Scales (of groups) and minima are rounded to fp16 first, so that codes fit the scales that kernels use.
    """
    n, k = weight.shape
    width = form.group or k
    if k % width:
        raise ConfigError(f"{name} has {k} inputs, expected a multiple of {width}: choose weights='int8' or 'dense'")
    codes = np.empty((n, k), np.uint8)
    scales = np.empty((n, k // width), np.float32)
    minima = np.empty_like(scales) if form.has_minima else None
    _C.quantise(weight, codes, scales, minima, form.bits, form.group)
    return Blocks(form, codes, scales, minima)
