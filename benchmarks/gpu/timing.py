"""Time on a device, and what the device can do at best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

RUNS = 30
CACHE_BYTES = 256 << 20  # more than the largest L2


@dataclass(frozen=True)
class Peaks:
    """Measured here: bytes/s of a copy, FLOP/s of a large bf16 product."""

    bandwidth: float
    flops: float


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a call: between CUDA events, or by the clock once where there is no GPU."""
    if device.type != "cuda":
        begin = time.perf_counter()
        function()
        return time.perf_counter() - begin
    for _ in range(3):
        function()
    times, cache = [], torch.empty(CACHE_BYTES, dtype=torch.int8, device=device)
    for _ in range(RUNS):
        cache.zero_()  # data comes from memory, as between the layers of a model
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def measure_peaks(device: torch.device, tiny: bool) -> Peaks:
    """A copy of 2 GiB, and a product of 8192 x 8192 matrices."""
    count, side = (1 << 20, 256) if tiny else (1 << 30, 8192)
    source = torch.zeros(count, dtype=torch.float16, device=device)
    target = torch.empty_like(source)
    copied = seconds_of(lambda: target.copy_(source), device)
    a = torch.randn(side, side, device=device).bfloat16()
    multiplied = seconds_of(lambda: a @ a, device)
    return Peaks(2 * source.numel() * 2 / copied, 2 * side**3 / multiplied)


def device_facts(device: torch.device) -> dict[str, Any]:
    """What a result depends on besides the code."""
    import triton

    facts: dict[str, Any] = {"torch": torch.__version__, "triton": triton.__version__, "device": str(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "processors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "cuda": torch.version.cuda,
        }
    return facts
