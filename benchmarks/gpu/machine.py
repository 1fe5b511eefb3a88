"""The machine: what everything else depends on, and what it can do at best."""

from __future__ import annotations

import platform
from collections.abc import Iterator

import torch

from benchmarks.gpu.stages import Bench, Record
from benchmarks.gpu.timing import seconds_of


def machine(bench: Bench) -> Iterator[Record]:
    """The extension, versions and the card; then bytes/s of a copy and FLOP/s of a bf16 product."""
    import triton

    from branchwise import _C, __version__

    facts: Record = {
        "kind": "machine",
        "branchwise": __version__,
        "isa": _C.isa(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
    }
    device = torch.device(bench.torch_device)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "processors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "cuda": torch.version.cuda,
        }
    yield facts
    count, side = (1 << 20, 256) if bench.tiny else (1 << 30, 8192)
    source = torch.zeros(count, dtype=torch.float16, device=device)
    target = torch.empty_like(source)
    copied = seconds_of(lambda: target.copy_(source), device)
    a = torch.randn(side, side, device=device).bfloat16()
    multiplied = seconds_of(lambda: a @ a, device)
    yield {
        "kind": "peaks",
        "bandwidth": 2 * source.numel() * source.itemsize / copied,
        "flops": 2 * side**3 / multiplied,
    }
