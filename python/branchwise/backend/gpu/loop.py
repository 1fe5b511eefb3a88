"""A decode iteration with all its buffers on the device, recorded once and run again for every token.

    next input ──model──> hidden ──lm_head, draw──> token ──step automaton──> next input, position, slot, finish

One recording serves any plan up to its sizes: rows without a branch stand still, programs without an item exit at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from branchwise._C import AttentionPlan
from branchwise.backend.base import AttentionPath, BurstArrays, DrawArrays, Floats, Ids, LoopKey, LoopParts
from branchwise.backend.gpu.plan import TritonPlan
from branchwise.backend.gpu.sampler import TritonSampler, fill, finite_or_nan
from branchwise.backend.gpu.scratch import Scratch
from branchwise_kernels.layout import Growth, PlanSize, update
from branchwise_kernels.step_state import LENGTH, RUNNING, StepState, step_state

SHORT_PATH = 8  # partials a row: enough for most trees, and the smallest recording
MIN_ROWS = 8


class Recorder(Protocol):
    """The part of a backend that a loop needs."""

    device: torch.device
    burst: int
    scratch: Scratch

    def graph(self, function: Callable[[], None]) -> Callable[[], None]: ...

    def download(self, *tensors: Tensor) -> Callable[[], list[NDArray[Any]]]: ...


@dataclass(frozen=True, slots=True)
class LoopSize:
    """One recording per row bucket and path; others for trees of unusual depth, with filters, and with penalties."""

    rows: int
    partials_per_row: int
    path: AttentionPath
    filtered: bool
    penalised: bool


def loop_key(plan: AttentionPlan, draws: DrawArrays, path: AttentionPath) -> LoopKey:
    """The smallest `LoopSize` for a plan, in a tuple."""
    per_row = -(-plan.n_partials // plan.n_rows)
    rows, partials = _power(plan.n_rows, MIN_ROWS), _power(per_row, SHORT_PATH)
    return (LoopSize(rows, partials, path, draws.filtered, draws.penalties is not None),)


class TritonLoop:
    """Buffers for up to `rows` branches and the iteration over them."""

    def __init__(self, backend: Recorder, key: LoopKey, parts: LoopParts) -> None:
        (wanted,) = key
        assert isinstance(wanted, LoopSize)
        self._filtered, self.path, rows = wanted.filtered, wanted.path, wanted.rows
        self._group = parts.shape.group
        size = PlanSize.for_rows(rows, wanted.partials_per_row, self._group, parts.blocks)
        device = backend.device
        self.backend, self._parts = backend, parts
        self.plan = TritonPlan.empty(size, parts.shape, self.path, backend.scratch)
        arrays = self.plan.arrays
        self.state = StepState.empty(arrays.positions, arrays.slots, backend.burst, len(parts.table.first))
        self._sampler: TritonSampler = parts.sampler
        self._draws = self._sampler.draw_tensors(rows, wanted.penalised, backend.scratch)
        self._space = self._sampler.workspace(rows, self._filtered, wanted.penalised, backend.scratch)
        self._tokens = torch.zeros(rows, dtype=torch.int32, device=device)
        self._logprobs = torch.zeros(rows, device=device)
        self._run = backend.graph(self.iterate)
        self._result: Callable[[], list[NDArray[Any]]] | None = None

    def iterate(self) -> None:
        """One token for every running row; nothing here waits for, or asks, the host."""
        state = self.state
        hidden = self._parts.forward(state.token, self.plan)
        torch.add(state.positions, 1, out=self._draws.position)
        self._sampler.draw_into(hidden, self._draws, self._space, self._filtered, self._tokens, self._logprobs)
        table = self._parts.table
        step_state(self._tokens, self._logprobs, state, table.functions, table.transitions, self.plan.arrays.pages)

    def start(self, plan: AttentionPlan, arrays: BurstArrays, iterations: int) -> None:
        """Fill the buffers and queue so many iterations."""
        growth = Growth(arrays.node_start, arrays.rewind)
        page_begin = update(self.plan.arrays, plan, self._group, growth)
        state, n = self.state, plan.n_rows
        columns = {
            "token": arrays.token,
            "automata": arrays.automata,
            "node_start": arrays.node_start,
            "page_begin": page_begin,
            "generated": arrays.generated,
            "max_step": arrays.max_step,
            "last_position": arrays.last_position,
        }
        for name, values in columns.items():
            getattr(state, name)[..., :n].copy_(torch.from_numpy(np.ascontiguousarray(values)), non_blocking=True)
        state.finish.fill_(LENGTH)
        state.finish[:n].fill_(RUNNING)
        state.iteration.zero_()
        fill(self._draws, arrays.draws)
        for _ in range(iterations):
            self._run()
        ring = state.ring_tokens[:iterations, :n], state.ring_logprobs[:iterations, :n]
        self._result = self.backend.download(*ring)

    def finish(self) -> tuple[Ids, Floats]:
        """Tokens and log-probabilities [iteration, row], token -1 where a row stood still."""
        assert self._result is not None
        tokens, logprobs = self._result()
        self._result = None
        return tokens.astype(np.int64), finite_or_nan(logprobs)


def _power(n: int, least: int) -> int:
    return max(least, 1 << max(0, n - 1).bit_length())
