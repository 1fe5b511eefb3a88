"""What models and their KV take of a device's memory, told from checkpoints before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch

from branchwise.backend.base import Backend
from branchwise.engine.kv import KvDemand, block_bytes
from branchwise.errors import ConfigError, OutOfMemory
from branchwise.models.config import DecoderConfig, decoder_config
from branchwise.weights.checkpoint import Checkpoint
from branchwise.weights.matrix import weight_bytes

MIB = 1 << 20
SMALL_MODEL_PARAMETERS = 50_000_000  # below this fp32 is the faster dtype of a CPU
LOWER = (  # what helps a device that is full while it works
    "lower kv_memory, max_rows or prefill_rows, take a smaller PRM, or give it a device of its own with prm_device"
)
RESERVE = 512 * MIB  # of a GPU: libraries, activations, logits


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes on one device; `problems`: searches that fit at once, each at its longest."""

    free: int
    weights: list[int]  # of policy and, where there is one, PRM
    kv: int
    blocks: int
    block_slots: int
    problems: int


def resolve_dtype(wish: str, checkpoint: Checkpoint, backend: Backend) -> torch.dtype:
    """The dtype that was asked for, or the faster one for this model. ConfigError where the device has none of it."""
    if wish == "auto":
        small = backend.device.type == "cpu" and parameter_count(checkpoint) < SMALL_MODEL_PARAMETERS
        return torch.float32 if small or torch.bfloat16 not in backend.dtypes else torch.bfloat16
    dtype: torch.dtype = getattr(torch, wish)
    if dtype not in backend.dtypes:
        known = ", ".join(str(each).removeprefix("torch.") for each in backend.dtypes)
        raise ConfigError(f"dtype={wish!r} cannot be computed on device {backend.name!r}: choose one of {known}")
    return dtype


def parameter_count(checkpoint: Checkpoint) -> int:
    """Numbers in all tensors."""
    return sum(prod(checkpoint.shape(name)) for name in checkpoint.names())


def check_weights(
    backend: Backend, checkpoints: Sequence[Checkpoint], dtype: torch.dtype, weights: str = "dense"
) -> list[int]:
    """Bytes of each model's weights. ConfigError: the device has no such form; OutOfMemory: not all of them fit."""
    if weights not in backend.weights:
        raise ConfigError(
            f"weights={weights!r} cannot be multiplied on device {backend.name!r}: choose {', '.join(backend.weights)},"
            " or device='cpu'"
        )
    need, free = [weight_bytes(each, weights, dtype) for each in checkpoints], backend.free_memory()
    if sum(need) > free:
        parts = " + ".join(f"{size / MIB:,.0f}" for size in need)
        form = str(dtype).removeprefix("torch.") if weights == "dense" else weights
        smaller = ", weights='int8' or 'q4'" if weights == "dense" and "q4" in backend.weights else ""
        raise OutOfMemory(
            f"the weights need {parts} MiB as {form}, {free / MIB:,.0f} MiB are free on {backend.device}: take smaller "
            f"models{smaller}, or another device"
        )
    return need


def check_memory(
    backend: Backend, checkpoints: Sequence[Checkpoint], dtype: torch.dtype, weights: str, kv_memory: int | None
) -> None:
    """As `check_weights`; OutOfMemory also when the KV that was asked for does not fit beside the weights."""
    need = sum(check_weights(backend, checkpoints, dtype, weights))
    left = backend.free_memory() - need
    if kv_memory is not None and kv_memory > left:
        raise OutOfMemory(
            f"kv_memory of {kv_memory / MIB:,.0f} MiB does not fit: beside the weights ({need / MIB:,.0f} MiB) "
            f"{max(0, left) / MIB:,.0f} MiB are free on {backend.device}: lower it, or leave it out"
        )


def kv_blocks(configs: Sequence[DecoderConfig], dtype: torch.dtype, backend: Backend, memory: int) -> int:
    """KV blocks of each model, so that all hold the same problems. OutOfMemory when that is next to nothing."""
    each = sum(block_bytes(config, dtype, backend) for config in configs)
    if memory // each < 2:
        raise OutOfMemory(
            f"kv_memory of {memory / MIB:.0f} MiB holds {memory // each} KV blocks of {each / MIB:.1f} MiB: raise it"
        )
    return memory // each


def plan_memory(
    backend: Backend, checkpoints: Sequence[Checkpoint], dtype: torch.dtype, demand: KvDemand, *,
    kv_memory: int | None = None, form: str = "dense",
) -> MemoryPlan:  # fmt: skip
    """The split for searches that each need `demand` of both models' KV. Loads nothing.

    form: of the weights, as `EngineConfig.weights` names it

    OutOfMemory when the weights, or the KV of one problem, cannot fit.
    """
    weights = check_weights(backend, checkpoints, dtype, form)
    free = backend.free_memory()
    left = max(0, free - sum(weights) - RESERVE)
    kv = min(left * 4 // 5, backend.kv_budget()) if kv_memory is None else kv_memory
    configs = [decoder_config(each.config, each.source) for each in checkpoints]
    blocks, size = kv_blocks(configs, dtype, backend, kv), backend.block_slots
    need = demand.blocks(size)
    if need > blocks:
        raise OutOfMemory(
            f"one search of n={demand.branches} needs up to {need} KV blocks, {blocks} fit into {kv / MIB:,.0f} MiB: "
            f"n={demand.most_branches(size, blocks)} is the most, or lower max_tokens"
        )
    return MemoryPlan(free, weights, kv, blocks, size, blocks // need)
