"""Engines made, used and closed in turn: what they took of the device's memory comes back."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import torch

from benchmarks.gpu.stages import Bench, Record
from benchmarks.gpu.tokens import search

ENGINES = 5
SLACK = 64 << 20  # cuBLAS's workspaces and compiled kernels, which the process keeps


def life(bench: Bench) -> Iterator[Record]:
    """Bytes held after each engine, beyond those after the first."""
    first = 0
    for index in range(2 if bench.tiny else ENGINES):
        search(bench.device, "greedy" if bench.tiny else "beam", 1, 16, 2 if bench.tiny else 64)
        gc.collect()
        held = held_bytes(bench)
        first = first or held
        yield {"kind": "life", "engine": index + 1, "kept_bytes": held - first, "right": held - first <= SLACK}


def held_bytes(bench: Bench) -> int:
    """What the process holds of the device; in the interpreter, of all tensors that are alive."""
    if bench.tiny:
        tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
        return sum(each.untyped_storage().nbytes() for each in tensors)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return total - free
