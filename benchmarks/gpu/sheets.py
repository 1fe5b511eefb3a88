"""GPUs as their makers' data sheets have them, and what a pass takes there at best and at worst."""

from __future__ import annotations

from dataclasses import dataclass

BANDWIDTH_SHARE, PEAK_SHARE = (0.9, 0.7), (0.8, 0.5)  # best and worst that kernels usually reach


@dataclass(frozen=True)
class Gpu:
    """bandwidth: bytes/s    peak: dense bf16 FLOP/s."""

    name: str
    bandwidth: float
    peak: float


GPUS = (
    Gpu("H200 SXM", 4.8e12, 989e12),
    Gpu("H100 SXM", 3.35e12, 989e12),
    Gpu("A100 80 GB", 2.04e12, 312e12),
    Gpu("RTX 4090", 1.01e12, 165e12),
)


def pass_seconds(gpu: Gpu, moved: float, flops: float) -> tuple[float, float]:
    """Best and worst: bound by the slower of bytes and FLOPs."""
    low, high = (
        max(moved / (gpu.bandwidth * bandwidth), flops / (gpu.peak * peak))
        for bandwidth, peak in zip(BANDWIDTH_SHARE, PEAK_SHARE, strict=True)
    )
    return low, high


def three(value: float) -> str:
    """Three digits."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def span(low: float, high: float) -> str:
    """ "1.2 to 1.5"."""
    return f"{three(low)} to {three(high)}"
