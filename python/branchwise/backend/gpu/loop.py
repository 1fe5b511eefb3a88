"""A decode iteration with all its buffers on the device, recorded once and run again for every token.

    next input ──model──> hidden ──lm_head, draw──> token ──step automaton──> next input, position, slot, finish

One recording serves any plan up to its sizes: rows without a branch stand still, programs without an item exit at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from branchwise._C import AttentionPlan
from branchwise.backend.base import AttentionPath, BurstArrays, DrawArrays, Drawn, LoopKey, LoopParts
from branchwise.backend.gpu.plan import TritonPlan
from branchwise.backend.gpu.sampler import TritonSampler, fill, finite_or_nan
from branchwise.backend.gpu.scratch import Scratch
from branchwise_kernels.layout import Growth, PlanSize, update
from branchwise_kernels.runs import row_runs
from branchwise_kernels.step_state import LENGTH, RUNNING, StepState, step_state
from branchwise_kernels.sureness import SureTensors

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
    """One recording per row bucket and path; others for trees of unusual depth, with filters, with penalties, and where
    rows ask how sure the model was.

    partials: of a run of rows
    """

    rows: int
    partials: int
    runs: int
    path: AttentionPath
    filtered: bool
    penalised: bool
    sure: bool


def loop_key(plan: AttentionPlan, draws: DrawArrays, path: AttentionPath, most: int) -> LoopKey:
    """The smallest `LoopSize` for a plan, in a tuple; most: partials of a run, unless one row has more."""
    rows, per_row = _power(plan.n_rows, MIN_ROWS), -(-plan.n_partials // plan.n_rows)
    partials, runs = rows * _power(per_row, SHORT_PATH), 1
    if path == "tree" and partials > most:
        begin = row_runs(plan, most)
        largest = int(np.diff(plan.row_partial_begin[begin]).max())
        partials, runs = most if largest <= most else _power(largest, 1), _power(len(begin) - 1, 1)
    return (LoopSize(rows, partials, runs, path, draws.filtered, draws.penalties is not None, draws.top is not None),)


class Iteration:
    """One token for every running row, and all that it reads and writes; nothing here waits for, or asks, the host."""

    def __init__(self, backend: Recorder, wanted: LoopSize, parts: LoopParts) -> None:
        rows, device = wanted.rows, backend.device
        size = PlanSize.for_rows(rows, wanted.partials, parts.shape.group, parts.blocks, wanted.runs)
        self.parts, self.filtered = parts, wanted.filtered
        self.plan = TritonPlan.empty(size, parts.shape, wanted.path, backend.scratch)
        arrays = self.plan.arrays
        self.state = StepState.empty(arrays.positions, arrays.slots, backend.burst, len(parts.table.first))
        self.sampler: TritonSampler = parts.sampler
        sure = SureTensors.empty(rows, backend.burst, device, self.state.iteration) if wanted.sure else None
        self.draws = replace(self.sampler.draw_tensors(rows, wanted.penalised, backend.scratch), sure=sure)
        self.space = self.sampler.workspace(rows, self.filtered, wanted.penalised, wanted.sure, backend.scratch)
        self.tokens = torch.zeros(rows, dtype=torch.int32, device=device)
        self.logprobs = torch.zeros(rows, device=device)
        self.sums, self.last = (torch.zeros(rows, len(parts.pooled), device=device) for _ in range(2))

    def __call__(self) -> None:
        state, table = self.state, self.parts.table
        hidden = self._pool(self.parts.forward(state.token, self.plan))
        torch.add(state.positions, 1, out=self.draws.position)
        self.sampler.draw_into(hidden, self.draws, self.space, self.filtered, self.tokens, self.logprobs)
        step_state(self.tokens, self.logprobs, state, table.functions, table.transitions, self.plan.arrays.pages)

    def _pool(self, states: Tensor) -> Tensor:
        """Take in the states that the running rows draw from; returns what the sampler reads: [rows, hidden]."""
        pooled = self.parts.pooled
        if not pooled:
            return states
        running = (self.state.finish == RUNNING)[:, None]
        wanted = states[:, pooled.start : pooled.stop].float()
        self.sums.add_(torch.where(running, wanted, 0.0))
        self.last.copy_(torch.where(running, wanted, self.last))
        return states[:, : self.parts.hidden].contiguous()


class TritonLoop:
    """An iteration over up to `rows` branches, recorded."""

    def __init__(self, backend: Recorder, key: LoopKey, parts: LoopParts) -> None:
        (wanted,) = key
        assert isinstance(wanted, LoopSize)
        self.path, self.backend = wanted.path, backend
        self.iteration = Iteration(backend, wanted, parts)
        self._run = backend.graph(self.iteration)  # not a method of this, which would hold itself for ever
        self._result: Callable[[], list[NDArray[Any]]] | None = None
        self._pooled: tuple[Tensor | None, Tensor | None] = None, None

    def start(self, plan: AttentionPlan, arrays: BurstArrays, iterations: int) -> None:
        """Fill the buffers and queue so many iterations."""
        growth = Growth(arrays.node_start, arrays.rewind)
        one = self.iteration
        page_begin = update(one.plan.arrays, plan, one.parts.shape.group, growth)
        state, n = one.state, plan.n_rows
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
        fill(one.draws, arrays.draws)
        if arrays.sums is not None:
            one.sums[:n].copy_(arrays.sums)
        for _ in range(iterations):
            self._run()
        ring = [state.ring_tokens, state.ring_logprobs]
        if one.draws.sure is not None:
            ring.append(one.draws.sure.found)
        self._result = self.backend.download(*(part[:iterations, :n] for part in ring))
        if arrays.sums is not None:
            self._pooled = one.sums[:n].clone(), one.last[:n].clone()

    def finish(self) -> Drawn:
        """What the rows drew; token -1 where a row stood still."""
        assert self._result is not None
        tokens, logprobs, *told = self._result()
        pooled, self._result, self._pooled = self._pooled, None, (None, None)
        return Drawn(tokens.astype(np.int64), finite_or_nan(logprobs), told[0] if told else None, *pooled)


def _power(n: int, least: int) -> int:
    return max(least, 1 << max(0, n - 1).bit_length())
