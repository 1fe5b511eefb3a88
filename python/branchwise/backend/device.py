"""What all devices have in common: memory that runs out, and things in it that can be made again."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable
from typing import TypeVar

import torch

from branchwise.errors import BranchwiseError, OutOfMemory

Value = TypeVar("Value")
LetGo = Callable[[], bool]  # give memory back; whether there was any to give

_SIGNS = ("out of memory", "can't allocate memory", "alloc_failed")  # of CUDA and Triton, of torch's CPU, of cuBLAS
_ASKED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|KiB|MiB|GiB)", re.IGNORECASE)
_MIB = {"bytes": 2**-20, "kib": 2**-10, "mib": 1.0, "gib": 2.0**10}


class Device:
    """A device whose memory may be full."""

    device: torch.device
    free_memory: Callable[[], int]

    def __init__(self) -> None:
        self._spares: list[weakref.WeakMethod[LetGo]] = []

    def spare(self, let_go: LetGo) -> None:
        """Call a method when memory is short; its object is not kept alive."""
        self._spares.append(weakref.WeakMethod(let_go))

    def let_go(self) -> bool:
        """Give back what nobody holds and all that can be made again; whether there was any of the latter."""
        gc.collect()
        found = [let_go() for each in self._spares if (let_go := each()) is not None]
        return any(found)

    def with_memory(self, work: Callable[[], Value], lower: str) -> Value:
        """What `work` returns; where memory is short, it begins again when everything has been let go of that can be.

        OutOfMemory: there still is not enough; it says how much was asked for, and what to `lower`. Work that fails
        must leave nothing behind.
        """
        said = ""
        for _ in range(2):
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if isinstance(error, BranchwiseError) or not short_of_memory(error):
                    raise
                said = f"{_asked(error)} on {self.device}, {self.free_memory() / 2**20:,.0f} MiB are free: {lower}"
            # Outside of the handler, where the error's frames are gone, and with them what they held on the device.
            if not self.let_go():
                break
        raise OutOfMemory(said)


def short_of_memory(error: BaseException) -> bool:
    """Whether it was raised for want of memory, or while one that was is being handled."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, torch.OutOfMemoryError | MemoryError) or any(s in str(found).lower() for s in _SIGNS):
            return True
        found = found.__context__
    return False


def _asked(error: BaseException) -> str:
    """How much was wanted, as far as torch says so."""
    found = _ASKED.search(f"{error} {error.__context__}")
    if found is None:
        return "more memory is needed"
    return f"{float(found[1].rstrip('.')) * _MIB[found[2].lower()]:,.0f} MiB more are needed"
