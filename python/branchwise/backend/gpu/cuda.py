"""The GPU: torch.cuda for memory, streams and graphs; everything else is in `backend.py`.

Policy and PRM have a stream each, the policy's with priority: what it decodes is what everybody waits for. Both models
are read on the default stream, so each stream waits for that one first. Nothing here runs on import.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from branchwise.backend.gpu.backend import TritonBackend
from branchwise.errors import ConfigError

LEAST_CAPABILITY = (8, 0)  # bf16 products and asynchronous copies
PRIORITY = {"policy": -1, "prm": 0}
WARM_UPS = 2  # runs before a recording: kernels compile, cuBLAS takes its workspace


class CudaBackend(TritonBackend):
    """One NVIDIA GPU. ConfigError where there is none, the driver is too old, or the card is."""

    name = "cuda"

    def __init__(self, index: int | None = None, option: str = "device") -> None:
        super().__init__(torch.device("cuda", check_device(index, option)))
        self._streams = {
            name: torch.cuda.Stream(self.device, priority=p)  # type: ignore[no-untyped-call]
            for name, p in PRIORITY.items()
        }
        self._pool = torch.cuda.graph_pool_handle()

    def kernels(self) -> str:
        return torch.cuda.get_device_name(self.device)

    def free_memory(self) -> int:
        return int(torch.cuda.mem_get_info(self.device)[0])

    def let_go(self) -> bool:
        """With what torch keeps for later. Graphs to come share new memory: that of the dropped ones may be in use."""
        torch.cuda.synchronize(self.device)
        found = super().let_go()
        self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()
        return found

    def shared_memory(self) -> int:
        from triton.runtime import driver  # whose launcher asks the same

        return int(driver.active.utils.get_device_properties(self.device.index)["max_shared_mem"])

    def kv_budget(self) -> int:
        """Four fifths of what is left: activations, logits and recordings need the rest."""
        return self.free_memory() * 4 // 5

    @contextmanager
    def stream(self, name: str) -> Iterator[None]:
        """Queue on the stream of "policy" or "prm"."""
        stream = self._streams[name]
        stream.wait_stream(torch.cuda.default_stream(self.device))
        with super().stream(name), torch.cuda.device(self.device), torch.cuda.stream(stream):
            yield

    def graph(self, function: Callable[[], None]) -> Callable[[], None]:
        """A CUDA graph of `function`; all share one memory pool, since they never run side by side."""
        stream = self._streams["policy"]
        with torch.cuda.device(self.device), torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                function()
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with (
                _no_collection(),
                torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"),
            ):
                function()
        return graph.replay

    def download(self, *tensors: Tensor) -> Callable[[], list[NDArray[Any]]]:
        """Copies to pinned memory, and an event behind them."""
        pinned = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
        for target, source in zip(pinned, tensors, strict=True):
            target.copy_(source, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()

        def wait() -> list[NDArray[Any]]:
            done.synchronize()
            return [tensor.numpy() for tensor in pinned]

        return wait


@contextmanager
def _no_collection() -> Iterator[None]:
    """Nothing is freed while a graph is captured: what a collection frees on the device would become part of it."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def check_device(index: int | None, option: str = "device") -> int:
    """The index of a usable GPU (None: the current one), or a ConfigError that says what is missing.

    option: of `EngineConfig`, which asks for it
    """
    wish, instead = f"{option}={'cuda' if index is None else f'cuda:{index}'!r}", f"{option}='cpu'"
    if torch.version.cuda is None:
        raise ConfigError(f"{wish}: this torch is built without CUDA; install a CUDA build, or use {instead}")
    if not torch.cuda.is_available():
        raise ConfigError(f"{wish}: {_why_unavailable()}, or use {instead}")
    count = torch.cuda.device_count()
    chosen = torch.cuda.current_device() if index is None else index
    if not 0 <= chosen < count:
        there = "one GPU, cuda:0" if count == 1 else f"{count} GPUs, cuda:0 to cuda:{count - 1}"
        raise ConfigError(f"{wish}: this machine has {there}: choose from these, or use {instead}")
    capability = torch.cuda.get_device_capability(chosen)
    if capability < LEAST_CAPABILITY:
        name, (major, minor) = torch.cuda.get_device_name(chosen), capability
        raise ConfigError(
            f"{wish}: {name} has compute capability {major}.{minor}, the kernels need 8.0 (Ampere) or later; use "
            f"{instead}"
        )
    return chosen


def _why_unavailable() -> str:
    """torch says why when it is asked to start CUDA."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        text = str(error).splitlines()[0]
        if "driver" in text.lower() and ("old" in text.lower() or "insufficient" in text.lower()):
            return f"the NVIDIA driver is too old for this torch ({text}): update it"
        return f"no usable NVIDIA GPU ({text}): check nvidia-smi"
    return "no usable NVIDIA GPU: check nvidia-smi"
