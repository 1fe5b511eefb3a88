"""Every kernel against its float64 twin on the device, and its time as a share of the machine's peaks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from benchmarks.gpu.cases import FULL, TINY, cases
from benchmarks.gpu.stages import Bench, Record
from benchmarks.gpu.timing import seconds_of

REL_L2 = {torch.bfloat16: 3e-3, torch.float32: 2e-6, torch.float16: 5e-4}
"""What a kernel may differ by; in fp32 twice the interpreter's, for the hardware's exp2 and fused multiply-adds."""


def kernels(bench: Bench) -> Iterator[Record]:
    """One record per dtype and kernel: bf16, in which models run, first."""
    device = torch.device(bench.torch_device)
    for dtype in (torch.float32,) if bench.tiny else (torch.bfloat16, torch.float32):
        for case in cases(TINY if bench.tiny else FULL, dtype, device):
            outputs = case.run()
            off = worst([error(got, want) for got, want in zip(outputs, case.twin(), strict=True)])
            spent = seconds_of(outputs.again, device)
            yield {
                "kind": "kernel",
                "name": case.name,
                "dtype": str(dtype).removeprefix("torch."),
                "rel_l2": off,
                "right": off <= REL_L2[dtype],
                "us": spent * 1e6,
                "of_bandwidth": case.moved / spent / bench.bandwidth,
                "of_peak": case.flops / spent / bench.flops,
            }


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Relative L2; for integers the share that differs."""
    if not want.dtype.is_floating_point:
        return float((got != want).double().mean())
    return float((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-30))


def worst(errors: list[float]) -> float:
    """The largest; NaN, of an output that was not written or is damaged, above all."""
    return max(errors, key=lambda each: (math.isnan(each), each))
