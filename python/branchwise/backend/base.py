"""What a device must do for the engine. Engine code takes a `Backend` and never names a device library."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from branchwise._C import AttentionPlan, KvTree
from branchwise.weights.blocks import Matrix
from branchwise.weights.checkpoint import Checkpoint

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
ReadRows = Callable[[int, int], Tensor]  # rows [begin, end) of a table, in the model's dtype, from the checkpoint
ReadMatrix = Callable[[int, int], Matrix]  # the same of a matrix, in the form that was asked for
Plan = Any  # an attention plan as the backend's own kernels read it: opaque to everyone else
Layers = Callable[[Tensor, Plan, Sequence[Tensor]], list[Tensor]]
"""(residual, plan, KV pool by layer) -> states after the final norm, then of tapped layers: [feeds, hidden] each."""
HeadKind = Literal["pair", "mlp", "value", "logit", "ensemble"]
Value = TypeVar("Value")
AttentionPath = Literal["tree", "rows"]  # shared segments read once, or every row on its own


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Heads of a model; `n_kv_heads` divides `n_heads`."""

    n_heads: int
    n_kv_heads: int
    head_dim: int

    @property
    def group(self) -> int:
        """Query heads that share a kv head."""
        return self.n_heads // self.n_kv_heads


class Linear(Protocol):
    """A linear layer, its weight in whatever form the backend multiplies fastest."""

    in_features: int
    out_features: int

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x: [rows, in] -> [rows, out], both in the model's dtype; `out` is room that may be used for the result."""
        ...


class Embedding(Protocol):
    """The embedding table of a model."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """tokens: [rows] int64 -> [rows, hidden]."""
        ...


BANNED = -1  # in place of a count: the word is never drawn


@dataclass(frozen=True, slots=True)
class Penalties:
    """What rows take from the logits of words they were given or have written, see `Sampling`; words they never draw.

    repetition, presence, frequency: [rows]    begins: [rows + 1], where each row's words begin
    words, counts: by row and in order of words; counts: times that the row has written a word, 0: only given, BANNED
    """

    repetition: Floats
    presence: Floats
    frequency: Floats
    begins: NDArray[np.int64]
    words: NDArray[np.int32]
    counts: NDArray[np.int32]

    def part(self, rows: slice) -> Penalties:
        """Those of some rows."""
        begins = self.begins[rows.start : rows.stop + 1]
        inside = slice(begins[0], begins[-1])
        return Penalties(
            self.repetition[rows], self.presence[rows], self.frequency[rows], begins - begins[0], self.words[inside],
            self.counts[inside],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class DrawArrays:
    """One token to draw per row: with which random numbers and filters. All arrays [rows]."""

    seed: NDArray[np.uint64]
    lineage: NDArray[np.uint64]
    position: NDArray[np.int32]
    temperature: Floats
    top_p: Floats
    top_k: NDArray[np.int32]
    min_p: Floats
    penalties: Penalties | None = None  # None: no row has any
    top: NDArray[np.int32] | None = None  # the k of each row's confidence, 0: not told; None: of no row

    def __len__(self) -> int:
        return len(self.seed)

    @property
    def filtered(self) -> bool:
        """Whether any row restricts its words."""
        return bool(((self.top_p < 1) | (self.top_k > 0) | (self.min_p > 0)).any())


class Drawn(NamedTuple):
    """What was drawn: token ids and log-probabilities, [rows], or of a burst [iteration, row].

    logprobs: at temperature 1, without penalties and filters; NaN: no token, the logits held NaN or infinity
    sure: [..., 2] confidence and certainty (see `Confidence`) of the rows that ask; None where none does
    sums, last: of a burst, [rows, pooled] fp32, on the device: the sums it was given with the states that tokens were
    drawn from, and the last of these states; None: no states are pooled
    """

    ids: Ids  # of a burst -1 where the row had finished
    logprobs: Floats
    sure: Floats | None = None
    sums: Tensor | None = None
    last: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[Drawn]) -> Drawn:
        """Rows that were drawn one group after another."""
        sure = [part.sure for part in parts if part.sure is not None]
        ids, logprobs = (np.concatenate(each) for each in zip(*(part[:2] for part in parts), strict=True))
        return cls(ids, logprobs, np.concatenate(sure) if sure else None)


@dataclass(frozen=True, slots=True)
class StepTable:
    """The step automata on the device: a `WordTable` of `text/steps.py`.

    functions [words] int32    transitions [functions, states] int16    first: where the states of each automaton begin
    """

    functions: Tensor
    transitions: Tensor
    first: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BurstArrays:
    """What the device must know of the rows of a burst, in the order of the plan; all arrays but one [rows]."""

    token: Ids  # fed first
    automata: NDArray[np.int32]  # [automata, rows]: states of the step automata
    generated: NDArray[np.int32]  # tokens of the step so far
    max_step: NDArray[np.int32]  # tokens that the step may have
    last_position: NDArray[np.int32]  # the token drawn for this position ends the solution
    node_start: NDArray[np.int32]  # position of the first token of the row's leaf
    rewind: NDArray[np.int32]  # slots from the first reserved one to the last
    draws: DrawArrays  # of the first token to draw
    sums: Tensor | None  # [rows, pooled] fp32, of the states on each path so far; None: no states are pooled


LoopKey = tuple[Hashable, ...]  # what a recorded loop was made for


class Loop(Protocol):
    """A recorded decode iteration with its buffers on the device."""

    path: AttentionPath

    def start(self, plan: AttentionPlan, arrays: BurstArrays, iterations: int) -> None:
        """Fill the buffers and queue so many iterations; returns without waiting."""
        ...

    def finish(self) -> Drawn:
        """Wait for what it drew."""
        ...


class Sampler(Protocol):
    """lm_head and sampling of one model, fused."""

    def draw(self, hidden: Tensor, draws: DrawArrays) -> Drawn:
        """A token for every row. hidden: [rows, hidden]."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """The logits that `draw` draws from: [rows, words] fp32. hidden: [rows, hidden], of few rows."""
        ...


class PrmHead(Protocol):
    """From the hidden state at a step's end to P(good), or to the number of which it is the sigmoid."""

    def __call__(self, hidden: Tensor) -> Floats:
        """hidden: [rows, hidden], any float dtype -> [rows] fp32."""
        ...


class KeptLayers(Protocol):
    """Layers that a backend has kept as its kernels read them, each at the place it was written under."""

    def linear(self, place: str, bias: Tensor | None = None) -> Linear: ...

    def gated(self, place: str, activation: str) -> Linear: ...

    def head(self, place: str) -> Any:
        """lm_head in the form that `Backend.sampler` takes."""
        ...


class KeptModel(Protocol):
    """What is kept of one model in one form; it may not be there yet."""

    def read(self, build: Callable[[KeptLayers], Value]) -> Value | None:
        """What `build` makes of the layers; None when they are of no use. ConfigError: none could be written."""
        ...

    def write(self, layers: Mapping[str, Any]) -> None:
        """Keep the layers of a model by place: what `Backend.linear`, `gated` and `head` gave."""
        ...


class WeightCache(Protocol):
    """Where a backend keeps the matrices of models from one start to the next."""

    def model(self, checkpoint: Checkpoint, dtype: torch.dtype, weights: str, head: bool) -> KeptModel:
        """What is kept of a model; head: whether its lm_head is part of it."""
        ...


class Backend(Protocol):
    """One device with its kernels.

    On the CPU every operation gives each row the same bits whatever the rows beside it are; on a GPU cuBLAS and the
    attention path choose by size, so that rows agree up to rounding.
    """

    name: str
    device: torch.device
    block_slots: int  # KV slots in a block
    burst: int  # decode iterations between two looks of the host

    dtypes: tuple[torch.dtype, ...]  # of models
    weights: tuple[str, ...]  # forms of weights, as `EngineConfig.weights` names them

    def kernels(self) -> str:
        """Which kernels run: results depend on it, as they round in their own way."""
        ...

    def free_memory(self) -> int:
        """Bytes that can still be taken, where models live."""
        ...

    def with_memory(self, work: Callable[[], Value], lower: str) -> Value:
        """What `work` returns; it may begin twice, and must leave nothing behind when it fails.

        OutOfMemory: the device is full even without recordings; it says what to `lower`.
        """
        ...

    def kv_budget(self) -> int:
        """Bytes that the KV of all models may take if nobody says otherwise; asked when the weights are in place."""
        ...

    def linear(self, parts: Sequence[Matrix], bias: Tensor | None = None) -> Linear:
        """parts: [out_i, in] each, under each other, not kept    bias: [out] of the model's dtype."""
        ...

    def gated(self, gate: Matrix, up: Matrix, activation: str) -> Linear:
        """A layer that gives act(gate(x)) * up(x): [rows, inner]. gate, up: [inner, in], not kept."""
        ...

    def embedding(self, read: ReadRows, words: int, width: int, dtype: torch.dtype) -> Embedding: ...

    def head(self, read: ReadMatrix, words: int, tied: Embedding | None) -> Any:
        """lm_head in the form that `sampler` takes; `tied`: the embedding, where it is the same matrix."""
        ...

    def sampler(self, head: Any, words: int, softcap: float) -> Sampler: ...

    def prm_head(self, kind: HeadKind, tensors: list[Tensor]) -> PrmHead:
        """A PRM head from its fp32 parameters.

        pair: [2, hidden], good first    mlp: W0 [n, hidden], b0 [n], W1 [2, n], b1 [2]    value: w [1, hidden], b [1]
        logit: layers with ReLU between, W [out, in] and b [out] each, the last of one row: gives the number itself
        ensemble: such layers, the last of any number of rows: gives the mean of their sigmoids
        """
        ...

    def weight_cache(self, folder: str | os.PathLike[str]) -> WeightCache:
        """Keeps matrices in a folder. ConfigError where it cannot be, or where the device keeps none."""
        ...

    def replayed(self, layers: Layers) -> Layers:
        """The same function, or one that repeats the calls of kernels that it makes."""
        ...

    def tensor(self, values: Tensor) -> Tensor:
        """A small tensor on the device."""
        ...

    def table(self, rows: int, width: int) -> Tensor:
        """Room for a table [rows, width] fp32 on the device, of which only the first rows may ever be written."""
        ...

    def kv_pool(self, layers: int, blocks: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> Tensor:
        """Room for the KV of a model: [layer, block, kv_head, 2, kv_width(head_dim)]."""
        ...

    def kv_width(self, head_dim: int) -> int:
        """Elements that the keys, or the values, of one block and head take. ConfigError: heads that cannot be."""
        ...

    def planner(self, tree: KvTree) -> Any:
        """An object whose `build(handles, counts)` gives the `AttentionPlan` of a forward pass."""
        ...

    def upload(self, plan: AttentionPlan, shape: AttentionShape) -> Plan:
        """The plan where the kernels can read it."""
        ...

    def attention_path(self, plan: Plan) -> AttentionPath:
        """How `tree_attention` goes about this plan."""
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, out: Tensor, eps: float, add_one: bool) -> None: ...

    def add_rms_norm(
        self, update: Tensor, residual: Tensor, weight: Tensor, out: Tensor, eps: float, add_one: bool
    ) -> None:
        """residual += update, in place; out = its norm."""
        ...

    def rope_store(
        self, qkv: Tensor, plan: Plan, cos: Tensor, sin: Tensor, query: Tensor, kv_layer: Tensor, n_heads: int,
        n_kv_heads: int, head_dim: int, q_norm: Tensor | None, k_norm: Tensor | None, eps: float, add_one: bool,
    ) -> None:  # fmt: skip
        """Split qkv; rotated queries to `query`, rotated keys and values into the pool."""
        ...

    def tree_attention(
        self, query: Tensor, kv_layer: Tensor, plan: Plan, out: Tensor, head_dim: int, scale: float, window: int,
        softcap: float,
    ) -> None:  # fmt: skip
        """Attention of every row over its own path."""
        ...

    def last_rows(self, x: Tensor, plan: Plan) -> Tensor:
        """The last row of every feed, in the order of the plan. x: [rows, width], overwritten -> [feeds, width]."""
        ...

    def stream(self, name: str) -> AbstractContextManager[None]:
        """Where work is queued: "policy" or "prm". They may overlap."""
        ...


@dataclass(frozen=True, slots=True)
class LoopParts:
    """What a recorded iteration is made of; forward: (tokens, plan) -> states [rows, width].

    hidden: columns of the states that the sampler reads, the first    pooled: columns of those that are pooled, if any
    """

    forward: Callable[[Tensor, Plan], Tensor]
    sampler: Any
    shape: AttentionShape
    table: StepTable
    blocks: int  # of the KV pool
    hidden: int
    pooled: range


class BurstBackend(Backend, Protocol):
    """A backend that decodes several iterations without the host."""

    def spare(self, let_go: Callable[[], bool]) -> None:
        """Call a method, which is not kept alive, when memory is short: it says whether it gave any back."""
        ...

    def loop_key(self, plan: AttentionPlan, draws: DrawArrays, shape: AttentionShape) -> LoopKey:
        """The smallest sizes of a loop that can run this plan."""
        ...

    def loop(self, key: LoopKey, parts: LoopParts) -> Loop:
        """Buffers of the sizes in `key` and one iteration over them, recorded."""
        ...
