"""Decoding without the host: a few iterations run on the device before anybody looks at what they drew.

Every row gets KV slots for the whole burst, one plan covers it (a leaf's keys grow with its row's position), and the
step automaton runs on the device, so that a finished row stands still. What was not needed is given back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from branchwise.backend.base import (
    AttentionShape,
    BurstArrays,
    BurstBackend,
    Drawn,
    Loop,
    LoopKey,
    LoopParts,
    Plan,
    StepTable,
)
from branchwise.engine.kv import KvCache
from branchwise.engine.memory import LOWER
from branchwise.engine.sampler import Draw, DrawnToken, Sampler, draw_arrays, token_list
from branchwise.models.decoder import Decoder
from branchwise.text.steps import State, StepDetector

MOST_LOOPS = 16  # recorded at a time: each holds a plan's arrays and a graph on the device


@dataclass(frozen=True, slots=True)
class LoopRow:
    """A growing step as the device needs to know it."""

    handle: int  # KV node; `token` comes next in it
    token: int  # drawn last, fed first
    draw: Draw  # of the token after it
    automaton: State  # of the step detector
    generated: int  # tokens of this step so far
    max_step: int  # tokens that the step may have
    last_position: int  # the token at this position ends the solution
    sum: Tensor | None = None  # [pooled] fp32, of the states on its path so far, where they are pooled

    def room(self) -> int:
        """Tokens that may still be drawn."""
        return min(self.max_step - self.generated, self.last_position - self.draw.position + 1)


@dataclass(frozen=True, slots=True)
class RowDrawn:
    """The tokens that a row drew; of the states they were drawn from, where those are pooled, the sum on its path and
    the last: [pooled] fp32, on the device."""

    tokens: list[DrawnToken]
    sum: Tensor | None
    last: Tensor | None


@dataclass(frozen=True, slots=True)
class Burst:
    """A burst under way."""

    rows: Sequence[LoopRow]
    order: np.ndarray
    reserved: list[int]  # slots for each row
    loop: Loop
    slots_read: list[int]  # KV slots that each iteration reads
    slots_unshared: int  # about what an iteration would read without sharing


class DecodeLoop:
    """Bursts of decode iterations for one model on one KV cache; one recorded graph per size.

    taps: layers whose states come, too    pooled: columns of all states that are pooled
    """

    def __init__(
        self, model: Decoder, sampler: Sampler, kv: KvCache, backend: BurstBackend, taps: Sequence[int] = (),
        pooled: range = range(0),
    ) -> None:  # fmt: skip
        self.model = model
        self.sampler = sampler
        self.kv = kv
        self.backend = backend
        self.taps, self.pooled = taps, pooled
        model.rope.reserve(kv.n_blocks * kv.block_slots)
        self.shape = AttentionShape(model.config.n_heads, model.config.n_kv_heads, model.config.head_dim)
        self._loops: dict[tuple[StepDetector, LoopKey], Loop] = {}
        self._tables: WeakKeyDictionary[StepDetector, StepTable] = WeakKeyDictionary()
        backend.spare(self.let_go)

    def let_go(self) -> bool:
        """Forget all loops; the one that is under way lives until it lands. Whether there were any."""
        found = bool(self._loops)
        self._loops.clear()
        return found

    def start(self, rows: Sequence[LoopRow], detector: StepDetector) -> Burst:
        """Queue a burst and return without waiting. OutOfMemory, or any other error: nothing is reserved."""
        reserved = [min(self.backend.burst, row.room()) for row in rows]
        nodes = [row.handle for row in rows]
        self.kv.append(nodes, reserved)
        with self.kv.or_take_back(nodes, reserved):
            return self.backend.with_memory(partial(self._start, rows, reserved, detector), LOWER)

    def _start(self, rows: Sequence[LoopRow], reserved: list[int], detector: StepDetector) -> Burst:
        handles = np.fromiter((row.handle for row in rows), np.int64, len(rows))
        plan = self.kv.planner.build(handles, np.ones(len(rows), np.int32))
        self.model.rope.cover(int(plan.positions.max()) + 1)
        order = np.asarray(plan.order)
        rewind = np.array(reserved, np.int32)[order] - 1  # the plan's rows are the last slots: back to the first
        in_order = [rows[index] for index in order]
        table = self._table(detector)
        arrays = BurstArrays(
            token=np.array([row.token for row in in_order], np.int64),
            automata=(np.array([row.automaton for row in in_order]) + table.first).astype(np.int32).T,
            generated=np.array([row.generated for row in in_order], np.int32),
            max_step=np.array([row.max_step for row in in_order], np.int32),
            last_position=np.array([row.last_position for row in in_order], np.int32),
            node_start=np.array([self.kv.tree.start(row.handle) for row in in_order], np.int32),
            rewind=rewind,
            draws=draw_arrays([row.draw for row in in_order]),
            sums=torch.stack([row.sum for row in in_order if row.sum is not None]) if self.pooled else None,
        )
        loop = self._loop(detector, table, self.backend.loop_key(plan, arrays.draws, self.shape))
        loop.start(plan, arrays, max(reserved))
        unread = [int(np.maximum(rewind - step, 0).sum()) for step in range(max(reserved))]
        return Burst(
            rows, order, reserved, loop, [plan.kv_slots_read - count for count in unread], plan.kv_slots_unshared
        )

    def finish(self, burst: Burst) -> list[RowDrawn]:
        """Wait for a burst: what each row drew, in the order of its rows.

        A log-probability of NaN is a row's last: no token could be drawn. Any error: nothing is reserved.
        """
        nodes = [row.handle for row in burst.rows]
        with self.kv.or_take_back(nodes, burst.reserved):
            drawn = burst.loop.finish()  # [iteration, row], token -1 where a row stood still
        results: dict[int, RowDrawn] = {}
        for column, index in enumerate(burst.order.tolist()):
            count = int((drawn.ids[:, column] >= 0).sum())
            damaged = np.isnan(drawn.logprobs[:count, column])
            if damaged.any():
                count = int(damaged.argmax()) + 1
            part = slice(count), column
            told = Drawn(drawn.ids[part], drawn.logprobs[part], None if drawn.sure is None else drawn.sure[part])
            results[index] = RowDrawn(
                token_list(told),
                None if drawn.sums is None else drawn.sums[column],
                None if drawn.last is None else drawn.last[column],
            )
        rows = [results[index] for index in range(len(burst.rows))]
        unused = [count - len(row.tokens) for count, row in zip(burst.reserved, rows, strict=True)]
        self.kv.take_back(nodes, unused)
        return rows

    def _loop(self, detector: StepDetector, table: StepTable, key: LoopKey) -> Loop:
        """A loop that can run a plan of this key, recorded if there is none; from now on the one used last."""
        loop = self._loops.pop((detector, key), None)
        if loop is None:
            # Not a method of this: the loop would hold what holds it, and nobody would ever free either.
            forward = partial(_forward, self.model, self.kv.layers, self.taps)
            parts = LoopParts(
                forward, self.sampler.fused, self.shape, table, self.kv.tree.n_blocks, self.model.config.hidden_size,
                self.pooled,
            )  # fmt: skip
            while len(self._loops) >= MOST_LOOPS:
                del self._loops[next(iter(self._loops))]  # the one that was used least recently
            loop = self.backend.loop(key, parts)
        self._loops[detector, key] = loop
        return loop

    def _table(self, detector: StepDetector) -> StepTable:
        """The step automata as tables, worked out once: about a third of a second for 150,000 words."""
        if detector not in self._tables:
            table = detector.table(self.model.config.vocab_size)
            functions, transitions = map(torch.from_numpy, (table.functions, table.transitions))
            device = self.backend.tensor
            self._tables[detector] = StepTable(device(functions), device(transitions), table.first)
        return self._tables[detector]


def _forward(model: Decoder, layers: Sequence[Tensor], taps: Sequence[int], tokens: Tensor, plan: Plan) -> Tensor:
    return model.forward(tokens, plan, layers, taps)
