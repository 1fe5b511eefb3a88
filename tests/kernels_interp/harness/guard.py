"""Bounds and races: every access must lie in a tensor of the launch, and no two programs may disturb one another.

Two programs disturb one another if one writes what the other reads or writes, unless both use atomics. An overrun from
one argument into another passes unseen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from triton.runtime import interpreter

Builder, Executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
READ, WRITE, ATOMIC = 0, 1, 2
# method of the interpreter -> kind of access, places of the pointer and the mask among its arguments
METHODS = {
    "create_masked_load": (READ, 0, 1),
    "create_masked_store": (WRITE, 0, 2),
    "create_atomic_rmw": (ATOMIC, 1, 3),
    "create_atomic_cas": (ATOMIC, 0, None),
}


class KernelFault(AssertionError):
    """A kernel touched memory that it must not touch."""


class Guard:
    """`with Guard(): launch()`. races=False checks bounds alone, for programs that atomics put in order."""

    def __init__(self, races: bool = True) -> None:
        self.races = races
        self.accesses = 0

    def __enter__(self) -> Guard:
        self.saved = {name: getattr(Builder, name) for name in METHODS}
        self.init, self.launch = Executor._init_args_hst, Executor.__call__
        for name, where in METHODS.items():
            setattr(Builder, name, self._watched(self.saved[name], *where))

        def init(executor: Any, args: Any, kwargs: Any) -> Any:
            host = self.init(executor, args, kwargs)
            self._begin(executor.fn.__name__, [*host[0], *host[1].values()])
            return host

        def launch(executor: Any, *args: Any, **kwargs: Any) -> Any:
            result = self.launch(executor, *args, **kwargs)
            if self.races:
                self._find_races()
            return result

        Executor._init_args_hst, Executor.__call__ = init, launch
        return self

    def __exit__(self, *_: object) -> None:
        for name, method in self.saved.items():
            setattr(Builder, name, method)
        Executor._init_args_hst, Executor.__call__ = self.init, self.launch

    def _begin(self, name: str, args: list[Any]) -> None:
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        self.name = name
        self.ranges = [(t.data_ptr(), t.data_ptr() + t.numel() * t.element_size()) for t in tensors]
        self.seen: list[tuple[int, int, np.ndarray]] = []

    def _watched(self, original: Any, kind: int, pointer_at: int, mask_at: int | None) -> Any:
        def watched(builder: Any, *args: Any, **kwargs: Any) -> Any:
            pointer = args[pointer_at]
            mask = True if mask_at is None else args[mask_at].data
            address, live = np.broadcast_arrays(pointer.data, mask)
            self._check(builder, kind, pointer, address[live].astype(np.int64))
            return original(builder, *args, **kwargs)

        return watched

    def _check(self, builder: Any, kind: int, pointer: Any, address: np.ndarray) -> None:
        width = max(1, interpreter._get_np_dtype(pointer.get_element_ty()).itemsize)
        inside = np.zeros(address.shape, bool)
        for begin, end in self.ranges:
            inside |= (address >= begin) & (address + width <= end)
        if not inside.all():
            verb = ("load", "store", "atomic")[kind]
            outside = int((~inside).sum())
            raise KernelFault(
                f"{self.name}, program {builder.grid_idx}: {verb} of {outside} elements outside every tensor"
            )
        self.accesses += address.size
        x, y, z = builder.grid_idx
        program = (x * builder.grid_dim[1] + y) * builder.grid_dim[2] + z
        self.seen.append((kind, program, np.unique(address)))

    def _find_races(self) -> None:
        if not self.seen:
            return
        address = np.concatenate([a for _, _, a in self.seen])
        program = np.concatenate([np.full(len(a), p) for _, p, a in self.seen])
        kind = np.concatenate([np.full(len(a), k) for k, _, a in self.seen])
        _, place = np.unique(address, return_inverse=True)
        cells = place.max() + 1
        lowest, highest = np.full(cells, np.iinfo(np.int64).max), np.full(cells, -1)
        np.minimum.at(lowest, place, program)
        np.maximum.at(highest, place, program)
        kinds = np.zeros(cells, np.int64)
        np.bitwise_or.at(kinds, place, 1 << kind)
        writes = (kinds & (1 << WRITE)) > 0
        mixed = ((kinds & (1 << ATOMIC)) > 0) & ((kinds & (1 << READ)) > 0)
        raced = (lowest != highest) & (writes | mixed)
        if raced.any():
            cell = int(np.argmax(raced))
            raise KernelFault(
                f"{self.name}: programs {lowest[cell]} and {highest[cell]} write and access one address, "
                f"as at {int(raced.sum())} addresses"
            )
