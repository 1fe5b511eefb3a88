"""Counts the bytes that kernels read and write, per tensor if asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from triton.runtime import interpreter

Builder = interpreter.InterpreterBuilder


class Count:
    """`with Count(kv=pool) as count: launch()`, then count.read["kv"], count.written["kv"]; "" holds the rest."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        self.ranges = {name: (t.data_ptr(), t.data_ptr() + t.numel() * t.element_size()) for name, t in tensors.items()}
        self.read = dict.fromkeys([*tensors, ""], 0)
        self.written = dict(self.read)

    def __enter__(self) -> Count:
        self.saved = Builder.create_masked_load, Builder.create_masked_store
        load, store = self.saved

        def counted_load(builder: Any, pointer: Any, mask: Any, *rest: Any, **kwargs: Any) -> Any:
            self._add(self.read, pointer, mask)
            return load(builder, pointer, mask, *rest, **kwargs)

        def counted_store(builder: Any, pointer: Any, value: Any, mask: Any, *rest: Any, **kwargs: Any) -> Any:
            self._add(self.written, pointer, mask)
            return store(builder, pointer, value, mask, *rest, **kwargs)

        Builder.create_masked_load, Builder.create_masked_store = counted_load, counted_store
        return self

    def __exit__(self, *_: object) -> None:
        Builder.create_masked_load, Builder.create_masked_store = self.saved

    def _add(self, totals: dict[str, int], pointer: Any, mask: Any) -> None:
        address, live = np.broadcast_arrays(pointer.data, mask.data)
        address = address[live].astype(np.int64)
        if not address.size:
            return
        width = interpreter._get_np_dtype(pointer.get_element_ty()).itemsize
        name = next((n for n, (begin, end) in self.ranges.items() if begin <= address[0] < end), "")
        totals[name] += address.size * width
