"""A device with so little memory that what fits into it is a question."""

from __future__ import annotations

import torch

from branchwise.backend.cpu.backend import CpuBackend


class SmallDevice(CpuBackend):
    """So many free bytes, all of which may become KV."""

    def __init__(self, free: int, name: str = "cpu") -> None:
        super().__init__()
        self.free = free
        self.device = torch.device(name)

    def free_memory(self) -> int:
        return self.free

    def kv_budget(self) -> int:
        return self.free
