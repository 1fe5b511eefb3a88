"""Time on a device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

RUNS = 30
CACHE_BYTES = 256 << 20  # more than the largest L2


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
