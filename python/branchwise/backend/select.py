"""From the name of a device to its backend."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import version

import torch

from branchwise.backend.base import Backend
from branchwise.errors import ConfigError

TRITON, TORCH = ((3, 6), (3, 10)), (2, 10)
"""From the first of these Tritons on, before the second; torch from this one on. Torch pins its Triton: 2.10 and 2.11
take 3.6, 2.12 and 2.13 take 3.7, 2.14 takes 3.8, 2.15 takes 3.9."""


def open_backend(device: str, option: str = "device") -> Backend:
    """The backend of a device as `EngineConfig` names it; "auto": a GPU where there is one, else the CPU.

    ConfigError where it cannot work here; option: which of `EngineConfig` it speaks of.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        from branchwise.backend.cpu.backend import CpuBackend

        return CpuBackend()
    if importlib.util.find_spec("triton") is None:
        raise ConfigError(f"{option}={device!r} needs Triton: pip install 'branchwise[gpu]', or use {option}='cpu'")
    check_versions(device, torch.__version__, version("triton"), option)
    if device == "interpreter":
        from branchwise.backend.gpu.interpreter import InterpBackend

        return InterpBackend(option)
    from branchwise.backend.gpu.cuda import CudaBackend

    return CudaBackend(int(device[5:]) if ":" in device else None, option)


def check_versions(device: str, torch_version: str, triton_version: str, option: str = "device") -> None:
    """ConfigError for versions of torch and Triton that the kernels are not made for."""
    first, end = TRITON
    if not first <= _numbers(triton_version) < end:
        raise ConfigError(
            f"{option}={device!r}: this is Triton {triton_version}, the kernels are made for {first[0]}.{first[1]} to"
            f" {end[0]}.{end[1] - 1}: install the one that your torch asks for, or use {option}='cpu'"
        )
    if _numbers(torch_version) < TORCH:
        raise ConfigError(
            f"{option}={device!r}: this is torch {torch_version}, the GPU backend needs {TORCH[0]}.{TORCH[1]} or later:"
            f" update torch and Triton together, or use {option}='cpu'"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))
