"""The GPU backend without a GPU: real specialisation and compilation for a chosen architecture, launches only recorded.

Outputs hold whatever memory held, so this shows what would be launched, never what comes out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from branchwise.backend.gpu.backend import TritonBackend


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch. Equal lists of two iterations are what a CUDA graph needs from the host."""

    kernel: str
    grid: tuple[int, int, int]
    warps: int
    shared_bytes: int
    pointers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Binary:
    """What a kernel was compiled to."""

    kernel: str
    cubin: bytes
    shared_bytes: int
    warps: int


@dataclass
class TraceUtils:
    """The queries that Triton makes of a driver's library."""

    binaries: list[Binary]
    shared_limit: int = 232_448  # of an H100
    warps: int = 0  # of the kernel that is being loaded

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {
            "max_shared_mem": self.shared_limit,
            "multiprocessor_count": 132,
            "max_num_regs": 65536,
            "warpSize": 32,
        }

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        self.binaries.append(Binary(name, binary, shared, self.warps))
        return 1, 2, 0, 0, 1024  # module, function, registers, spills, most threads

    def unload_module(self, module: int) -> None:
        pass


@dataclass
class TraceDriver:
    """Stands where Triton expects the CUDA driver; tensors stay on the CPU."""

    arch: int
    launches: list[Launch] = field(default_factory=list)
    binaries: list[Binary] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.utils = TraceUtils(self.binaries)

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        self.utils.warps = metadata.num_warps  # the binary comes next

        def record(x: int, y: int, z: int, *rest: Any) -> None:
            pointers = tuple(arg.data_ptr() for arg in rest if isinstance(arg, torch.Tensor))
            self.launches.append(Launch(metadata.name, (x, y, z), metadata.num_warps, metadata.shared, pointers))

        return record

    def is_active(self) -> bool:
        return True

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch  # Triton keeps compiled kernels by device: a number of its own for every architecture

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        return torch.cuda


_DRIVERS: dict[int, TraceDriver] = {}


class TraceBackend(TritonBackend):
    """Compiles for `arch` (80, 90, ...) and records launches; it replaces Triton's driver in this process."""

    name = "trace"

    def __init__(self, arch: int = 90) -> None:
        super().__init__(torch.device("cpu"))
        from triton.runtime.driver import driver

        # Triton keeps compiled kernels by architecture, and each its launcher: one driver for all backends of one.
        self.driver = _DRIVERS.setdefault(arch, TraceDriver(arch))
        self.driver.launches.clear()
        driver.set_active(self.driver)

    def shared_memory(self) -> int:
        return self.driver.utils.shared_limit

    @property
    def launches(self) -> list[Launch]:
        """What was launched so far; clear it to begin anew."""
        return self.driver.launches


class LiveTensors(TorchDispatchMode):
    """Knows all memory that torch gives out while it is on, on whatever device, and what of it is still held."""

    def __init__(self) -> None:
        super().__init__()
        self._given: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor):
                storage = each.untyped_storage()
                memory = StorageWeakRef(storage)  # the address of one that is gone may be taken again
                self._given[memory.cdata] = memory, storage.nbytes()
        return result

    def given(self) -> int:
        """Pieces of memory that were given out, as far as they lay at different places."""
        return len(self._given)

    def held(self) -> int:
        """Pieces of memory that somebody holds now."""
        return sum(not each.expired() for each, _ in self._given.values())

    def held_bytes(self) -> int:
        """Bytes of them."""
        return sum(size for each, size in self._given.values() if not each.expired())


class PeakBytes(LiveTensors):
    """Knows the most that was ever held of it, too; for a pass or two, as it counts after every operation."""

    peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        self.peak = max(self.peak, self.held_bytes())
        return result
