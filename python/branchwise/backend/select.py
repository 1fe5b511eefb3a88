"""From the name of a device to its backend."""

from __future__ import annotations

import importlib.util

import torch

from branchwise.backend.base import Backend
from branchwise.errors import ConfigError


def open_backend(device: str) -> Backend:
    """The backend of a device as `EngineConfig` names it; "auto": a GPU where there is one, else the CPU.

    ConfigError where it cannot work here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        from branchwise.backend.cpu.backend import CpuBackend

        return CpuBackend()
    if importlib.util.find_spec("triton") is None:
        raise ConfigError(f"device={device!r} needs Triton: pip install 'branchwise[gpu]', or use device='cpu'")
    if device == "interpreter":
        from branchwise.backend.gpu.interpreter import InterpBackend

        return InterpBackend()
    from branchwise.backend.gpu.cuda import CudaBackend

    return CudaBackend(int(device[5:]) if ":" in device else None)
