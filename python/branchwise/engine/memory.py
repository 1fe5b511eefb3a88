"""What models and their KV take of a device's memory, told from checkpoints before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
class Home:
    """A device, and the models that shall live there by what they are to the engine: "policy", "PRM"."""

    backend: Backend
    dtype: torch.dtype
    models: Mapping[str, Checkpoint]

    def weight_bytes(self, form: str) -> dict[str, int]:
        """Bytes of each model's weights. ConfigError: the device has none of that form."""
        if form not in self.backend.weights:
            raise ConfigError(
                f"weights={form!r} cannot be multiplied on device {self.backend.name!r}: choose "
                f"{', '.join(self.backend.weights)}, or device='cpu'"
            )
        return {name: weight_bytes(each, form, self.dtype) for name, each in self.models.items()}


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes on one device; `problems`: searches that fit at once, each at its longest."""

    free: int
    weights: dict[str, int]  # by model
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


def check_weights(homes: Sequence[Home], form: str = "dense") -> list[dict[str, int]]:
    """Bytes of each model's weights on each device. OutOfMemory: not all of them fit."""
    need, free = [home.weight_bytes(form) for home in homes], [home.backend.free_memory() for home in homes]
    if any(sum(sizes.values()) > room for sizes, room in zip(need, free, strict=True)):
        parts = "; ".join(
            f"{_sum(sizes)} MiB as {home.dtype if form == 'dense' else form}, {room / MIB:,.0f} MiB are free on "
            f"{home.backend.device}"
            for home, sizes, room in zip(homes, need, free, strict=True)
        )
        smaller = (
            ", weights='int8' or 'q4'" if form == "dense" and all("q4" in h.backend.weights for h in homes) else ""
        )
        raise OutOfMemory(
            f"the weights need {parts.replace('torch.', '')}: take smaller models{smaller}, or another device"
        )
    return need


def _sum(sizes: Mapping[str, int]) -> str:
    return " + ".join(f"{size / MIB:,.0f} ({name})" for name, size in sizes.items())


def check_memory(homes: Sequence[Home], form: str, kv_memory: int | None) -> None:
    """As `check_weights`; OutOfMemory also when the KV that was asked for does not fit beside the weights."""
    need = [sum(sizes.values()) for sizes in check_weights(homes, form)]
    left = [home.backend.free_memory() - size for home, size in zip(homes, need, strict=True)]
    if kv_memory is not None and any(kv_memory > room for room in left):
        parts = ", ".join(
            f"{max(0, room) / MIB:,.0f} MiB are free on {home.backend.device} beside {size / MIB:,.0f} MiB of weights"
            for home, room, size in zip(homes, left, need, strict=True)
        )
        raise OutOfMemory(f"kv_memory of {kv_memory / MIB:,.0f} MiB does not fit: {parts}: lower it, or leave it out")


def kv_blocks(configs: Sequence[DecoderConfig], dtype: torch.dtype, backend: Backend, memory: int) -> int:
    """KV blocks of each model, so that all hold the same problems. OutOfMemory when that is next to nothing."""
    each = sum(block_bytes(config, dtype, backend) for config in configs)
    if memory // each < 2:
        raise OutOfMemory(
            f"kv_memory of {memory / MIB:.0f} MiB holds {memory // each} KV blocks of {each / MIB:.1f} MiB: raise it"
        )
    return memory // each


def plan_memory(
    homes: Sequence[Home], demand: KvDemand, *, kv_memory: int | None = None, form: str = "dense"
) -> list[MemoryPlan]:
    """The split of each device, for searches that each need `demand` of every model's KV. Loads nothing.

    kv_memory: of each device    form: of the weights, as `EngineConfig.weights` names it

    OutOfMemory when the weights, or the KV of one problem, cannot fit.
    """
    needs = check_weights(homes, form)
    return [_plan(home, sizes, demand, kv_memory) for home, sizes in zip(homes, needs, strict=True)]


def _plan(home: Home, weights: dict[str, int], demand: KvDemand, kv_memory: int | None) -> MemoryPlan:
    backend = home.backend
    free = backend.free_memory()
    left = max(0, free - sum(weights.values()) - RESERVE)
    kv = min(left * 4 // 5, backend.kv_budget()) if kv_memory is None else kv_memory
    configs = [decoder_config(each.config, each.source) for each in home.models.values()]
    blocks, size = kv_blocks(configs, home.dtype, backend, kv), backend.block_slots
    need = demand.blocks(size)
    if need > blocks:
        raise OutOfMemory(
            f"one search of n={demand.branches} needs up to {need} KV blocks, {blocks} fit into {kv / MIB:,.0f} MiB on "
            f"{backend.device}: n={demand.most_branches(size, blocks)} is the most, or lower max_tokens"
        )
    return MemoryPlan(free, weights, kv, blocks, size, blocks // need)
