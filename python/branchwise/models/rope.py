"""RoPE tables: cos and sin of every position, with the scaling rules that checkpoints use."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from branchwise.errors import CheckpointError


def rope_table(head_dim: int, theta: float, scaling: dict[str, Any], positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines for half-split RoPE (Su et al. 2021).

    Returns two tensors [positions, head_dim / 2] fp32. CheckpointError for a scaling rule that is not known.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / (theta**exponents)
    kind = str(scaling.get("rope_type") or scaling.get("type") or "default")
    if kind == "linear":
        frequencies = frequencies / float(scaling["factor"])
    elif kind == "llama3":
        frequencies = _llama3(frequencies, scaling)
    elif kind != "default":
        raise CheckpointError(f"RoPE scaling {kind!r} is not supported; known are default, linear and llama3")
    angles = torch.outer(torch.arange(positions, dtype=torch.int64).float(), frequencies)
    return angles.cos(), angles.sin()


def _llama3(frequencies: Tensor, scaling: dict[str, Any]) -> Tensor:
    """Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between blended."""
    factor = float(scaling["factor"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    old_context = float(scaling["original_max_position_embeddings"])
    wavelengths = 2 * math.pi / frequencies
    smooth = (old_context / wavelengths - low) / (high - low)
    blended = (1 - smooth) * frequencies / factor + smooth * frequencies
    stretched = torch.where(wavelengths > old_context / low, frequencies / factor, frequencies)
    between = (wavelengths >= old_context / high) & (wavelengths <= old_context / low)
    return torch.where(between, blended, stretched)
