"""Programs in random order: a result that depends on it depends on luck."""

from __future__ import annotations

import random
from typing import Any

from triton.runtime import interpreter

Builder = interpreter.InterpreterBuilder


class Permuted:
    """`with Permuted(seed): launch()` visits the programs in an order that the seed gives."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def __enter__(self) -> Permuted:
        self.original = Builder.set_grid_idx

        def set_grid_idx(builder: Any, x: int, y: int, z: int) -> None:
            nx, ny, nz = builder.grid_dim
            if (x, y, z) == (0, 0, 0):  # a launch begins
                self.order = self.rng.sample(range(nx * ny * nz), nx * ny * nz)
            program = self.order[(x * ny + y) * nz + z]
            self.original(builder, program // (ny * nz), program // nz % ny, program % nz)

        Builder.set_grid_idx = set_grid_idx
        return self

    def __exit__(self, *_: object) -> None:
        Builder.set_grid_idx = self.original
