"""Runs a model over new tokens of tree nodes: reserve slots, plan attention, go through the layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from branchwise._C import AttentionPlan
from branchwise.backend.base import AttentionPath, AttentionShape, Plan
from branchwise.engine.kv import KvCache
from branchwise.engine.memory import LOWER
from branchwise.models.decoder import Decoder, beside

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Feed:
    """New tokens at the end of one open KV node."""

    handle: int
    tokens: list[int]


@dataclass(slots=True)
class RunnerStats:
    """Totals since the runner was made; bytes are computed from the plans."""

    iterations: int = 0
    rows: int = 0
    kv_bytes_read: int = 0
    kv_bytes_unshared: int = 0  # what the same rows would read without sharing
    attention_path: Counter[AttentionPath] = field(default_factory=Counter)  # forward passes by how attention ran


class Runner:
    """One model on one KV cache. taps: layers whose states come, too, see `Decoder.through_layers`."""

    def __init__(self, model: Decoder, kv: KvCache, taps: Sequence[int] = ()) -> None:
        self.model = model
        self.kv = kv
        self.shape = AttentionShape(model.config.n_heads, model.config.n_kv_heads, model.config.head_dim)
        self.stats = RunnerStats()
        self.last_bytes_read = 0
        model.rope.reserve(kv.n_blocks * kv.block_slots)  # no position is beyond what the KV holds
        self.taps = taps
        self.layers = model.backend.replayed(partial(model.through_layers, taps=taps))

    def forward(self, feeds: list[Feed]) -> Tensor:
        """Append every feed to its node and return the hidden state after the last token of each.

        Returns [len(feeds), (1 + taps) * hidden], in the order of `feeds`.
        OutOfMemory, or any other error: nothing was appended.
        """
        return self._append(feeds, self._last_rows)

    def forward_rows(self, feeds: list[Feed]) -> list[Tensor]:
        """As `forward`, but the hidden states after every token of each feed: [tokens, (1 + taps) * hidden]."""
        return self._append(feeds, self._every_row)

    def _append(self, feeds: list[Feed], run: Callable[[list[Feed]], Value]) -> Value:
        self.kv.append([feed.handle for feed in feeds], [len(feed.tokens) for feed in feeds])
        with self.or_take_back(feeds):
            return self.model.backend.with_memory(partial(run, feeds), LOWER)

    def or_take_back(self, feeds: list[Feed]) -> AbstractContextManager[None]:
        """What was appended for these feeds stays unless something is raised inside."""
        return self.kv.or_take_back([feed.handle for feed in feeds], [len(feed.tokens) for feed in feeds])

    def _last_rows(self, feeds: list[Feed]) -> Tensor:
        plan, tokens, uploaded = self._plan(feeds)
        hidden = beside(self.layers(self.model.embed(tokens), uploaded, self.kv.layers))
        hidden = hidden[self.model.backend.tensor(torch.from_numpy(np.argsort(plan.order)))]
        self._count(plan, uploaded)
        return hidden

    def _every_row(self, feeds: list[Feed]) -> list[Tensor]:
        plan, tokens, uploaded = self._plan(feeds)
        hidden = self.model.forward(tokens, uploaded, self.kv.layers, self.taps)
        self._count(plan, uploaded)
        parts = torch.split(hidden, [len(feeds[index].tokens) for index in plan.order])
        return [parts[place] for place in np.argsort(plan.order)]

    def _plan(self, feeds: list[Feed]) -> tuple[AttentionPlan, Tensor, Plan]:
        """The plan of a pass, the tokens in its order [rows], and the plan where the kernels can read it."""
        handles = np.fromiter((feed.handle for feed in feeds), np.int64, len(feeds))
        counts = np.fromiter((len(feed.tokens) for feed in feeds), np.int32, len(feeds))
        plan = self.kv.planner.build(handles, counts)
        self.model.rope.cover(int(plan.positions.max()) + 1)
        order = np.asarray(plan.order)
        backend = self.model.backend
        tokens = backend.tensor(torch.tensor([token for index in order for token in feeds[index].tokens]))
        return plan, tokens, backend.upload(plan, self.shape)

    def _count(self, plan: AttentionPlan, uploaded: Plan) -> None:
        path = self.model.backend.attention_path(uploaded)
        self.count(plan.n_rows, plan.kv_slots_read, plan.kv_slots_unshared, path)

    def count(self, rows: int, slots_read: int, slots_unshared: int, path: AttentionPath) -> None:
        """Add one forward pass to the totals."""
        self.stats.attention_path[path] += 1
        self.last_bytes_read = (slots_read if path == "tree" else slots_unshared) * self.kv.slot_bytes
        self.stats.iterations += 1
        self.stats.rows += rows
        self.stats.kv_bytes_read += self.last_bytes_read
        self.stats.kv_bytes_unshared += slots_unshared * self.kv.slot_bytes
