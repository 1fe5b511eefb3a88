"""A pass through the layers as one call into C++."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from branchwise import _C
from branchwise.backend.base import Layers, Plan

FEWEST_ROWS, MOST_ROWS = 64, 512  # a pass over more rows spends its time in kernels; its buffers would be large


class RecordedLayers:
    """Layers whose kernel calls are recorded once and then made again for other rows: `_C.record`.

    Called from Python one by one, two hundred kernels take as much time between them as in a few of them: whatever
    Python needs has been pushed out of the caches by the weights.
    """

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self._pool: Sequence[Tensor] = ()
        self.calls: Any = None  # a _C.Pass
        self._residual: Tensor | None = None  # [rows recorded, hidden]
        self._states: list[Tensor] = []

    def __call__(self, residual: Tensor, plan: Plan, pool: Sequence[Tensor]) -> list[Tensor]:
        """residual: [rows, hidden] -> states after the final norm, then of tapped layers: [feeds, hidden] each."""
        rows = len(residual)
        if rows > MOST_ROWS:
            return self.layers(residual, plan, pool)
        if self._residual is None or rows > len(self._residual) or pool is not self._pool:
            self._record(residual, plan, pool)
        assert self._residual is not None
        self._residual[:rows] = residual
        self.calls.run(plan)
        return [states[: len(plan.last_rows)].clone() for states in self._states]

    def _record(self, residual: Tensor, plan: Plan, pool: Sequence[Tensor]) -> None:
        rows = max(FEWEST_ROWS, 1 << (len(residual) - 1).bit_length())
        room = residual.new_empty(rows, residual.shape[1])

        def body() -> None:
            self._states = self.layers(room, plan, pool)

        self.calls = _C.record(body)
        self._residual, self._pool = room, pool
