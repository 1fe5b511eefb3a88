"""Rules of RoPE in GGUF metadata and tensors, as the `rope_scaling` of config.json."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from branchwise.errors import CheckpointError
from branchwise.weights.dequantise import read_tensor
from branchwise.weights.gguf_metadata import Metadata

DIVISORS, SHORT, LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
DERIVED = frozenset({DIVISORS, SHORT, LONG})
"""Tensors that only restate the configuration: they are not weights of the model."""

_LLAMA3_CONTEXT, _LLAMA3_LOW, _LLAMA3_HIGH = 8192, 1.0, 4.0
_KINDS = ("none", "linear", "yarn", "longrope")


def rope_scaling(meta: Metadata, config: dict[str, Any], width: int) -> dict[str, Any] | None:
    """The rule of a file, or None. width: rotated dimensions of a head. CheckpointError: it is not supported."""
    tensors = meta.file.tensors
    kind = meta.file.metadata.get(meta.key("rope.scaling.type"), "none")
    if kind not in _KINDS:
        raise meta.error("rope.scaling.type", f"is not supported: expected one of {', '.join(_KINDS)}")
    if meta.number("rope.scaling.yarn_ext_factor", 1.0) != 1.0:
        raise meta.error("rope.scaling.yarn_ext_factor", "is not supported")
    if DIVISORS in tensors:
        return _llama3(meta, config, width)
    if kind == "longrope" or SHORT in tensors or LONG in tensors:
        return _longrope(meta, width)
    if kind == "yarn":
        return _yarn(meta)
    if meta.number("rope.scaling.attn_factor", 1.0) != 1.0:
        raise meta.error("rope.scaling.attn_factor", "is not supported without yarn or longrope")
    old = meta.number("rope.scale_linear", 1.0)  # of early files
    if kind == "none" and old == 1.0:
        return None
    return {"rope_type": "linear", "factor": meta.number("rope.scaling.factor", None if old == 1.0 else old)}


def _yarn(meta: Metadata) -> dict[str, Any]:
    factor = meta.number("rope.scaling.factor")
    scaling: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": meta.integer("rope.scaling.original_context_length"),
    }
    sharper = meta.number("rope.scaling.attn_factor", 1.0) * meta.number("rope.scaling.yarn_attn_factor", 1.0)
    if sharper != 1.0:  # on top of what the rule gives by itself
        scaling["attention_factor"] = sharper * (0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0)
    for name in ("beta_fast", "beta_slow"):
        if meta.key(f"rope.scaling.yarn_{name}") in meta.file.metadata:
            scaling[name] = meta.number(f"rope.scaling.yarn_{name}")
    if meta.file.metadata.get(meta.key("rope.scaling.yarn_log_multiplier")):
        raise meta.error("rope.scaling.yarn_log_multiplier", "is not supported")
    return scaling


def _longrope(meta: Metadata, width: int) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "short_factor": _numbers(meta, SHORT, width).tolist(),
        "long_factor": _numbers(meta, LONG, width).tolist(),
        "original_max_position_embeddings": meta.integer("rope.scaling.original_context_length"),
        "attention_factor": meta.number("rope.scaling.attn_factor", 1.0),
    }


def _llama3(meta: Metadata, config: dict[str, Any], width: int) -> dict[str, Any]:
    """Recover Llama 3's rule from the frequency divisors that the file stores, and check that it gives them back."""
    stored = _numbers(meta, DIVISORS, width)
    scaling = {
        "rope_type": "llama3",
        "factor": float(np.round(stored.max(), 4)),
        "low_freq_factor": _LLAMA3_LOW,
        "high_freq_factor": _LLAMA3_HIGH,
        "original_max_position_embeddings": meta.integer("rope.scaling.original_context_length", _LLAMA3_CONTEXT),
    }
    expected = llama3_divisors(width, config["rope_theta"], scaling)
    if not np.allclose(stored, expected, rtol=1e-4):
        raise CheckpointError(
            f"{meta.file.path}: {DIVISORS} does not follow Llama 3's rule with {scaling}. "
            "Use the safetensors folder of this model."
        )
    return scaling


def _numbers(meta: Metadata, name: str, width: int) -> NDArray[np.float64]:
    tensor = meta.file.tensors.get(name)
    if tensor is None:
        raise CheckpointError(f"{meta.file.path}: tensor {name} is missing, by which its RoPE is scaled.")
    if tensor.shape != (width // 2,):
        raise CheckpointError(f"{meta.file.path}: {name} has shape {tensor.shape}, expected half a head.")
    return np.asarray(read_tensor(tensor, torch.float32).double().numpy())


def llama3_divisors(head_dim: int, theta: float, scaling: dict[str, Any]) -> NDArray[np.float64]:
    """Divisors of the RoPE frequencies under Llama 3's rule: [head_dim / 2] fp64.

    1 for short wavelengths, `factor` for long ones, and a smooth blend of the two frequencies between.
    """
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] / wavelengths
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - blend) / scaling["factor"] + blend))
