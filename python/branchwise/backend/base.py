"""What a device must do for the engine. Engine code takes a `Backend` and never names a device library."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from branchwise._C import AttentionPlan, KvTree

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
ReadRows = Callable[[int, int], Tensor]  # rows [begin, end) of a table, in the model's dtype, from the checkpoint
Plan = Any  # an attention plan as the backend's own kernels read it: opaque to everyone else
HeadKind = Literal["pair", "mlp", "value"]


class Linear(Protocol):
    """A linear layer, its weight in whatever form the backend multiplies fastest."""

    in_features: int
    out_features: int

    def __call__(self, x: Tensor) -> Tensor:
        """x: [rows, in] -> [rows, out], both in the weight's dtype."""
        ...


class Embedding(Protocol):
    """The embedding table of a model."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """tokens: [rows] int64 -> [rows, hidden]."""
        ...


class DrawArrays:
    """One token to draw per row: with which random numbers and filters. All arrays [rows]."""

    __slots__ = ("lineage", "min_p", "position", "seed", "temperature", "top_k", "top_p")

    def __init__(
        self, seed: list[int], lineage: list[int], position: list[int], temperature: list[float], top_p: list[float],
        top_k: list[int], min_p: list[float],
    ) -> None:  # fmt: skip
        self.seed = np.array(seed, np.uint64)
        self.lineage = np.array(lineage, np.uint64)
        self.position = np.array(position, np.int32)
        self.temperature = np.array(temperature, np.float32)
        self.top_p = np.array(top_p, np.float32)
        self.top_k = np.array(top_k, np.int32)
        self.min_p = np.array(min_p, np.float32)

    def __len__(self) -> int:
        return len(self.seed)


class Sampler(Protocol):
    """lm_head and sampling of one model, fused."""

    def draw(self, hidden: Tensor, draws: DrawArrays) -> tuple[Ids, Floats]:
        """Token ids and log-probabilities (temperature 1, no filters). hidden: [rows, hidden]."""
        ...


class PrmHead(Protocol):
    """From the hidden state at a step's end to P(good)."""

    def __call__(self, hidden: Tensor) -> Floats:
        """hidden: [rows, hidden], any float dtype -> [rows] fp32."""
        ...


class Backend(Protocol):
    """One device with its kernels. Every operation gives each row the same bits whatever the rows beside it are."""

    name: str
    device: torch.device
    block_slots: int  # KV slots in a block
    burst: int  # decode iterations between two looks of the host

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """weight: [out, in], not kept    bias: [out] of the same dtype."""
        ...

    def embedding(self, read: ReadRows, words: int, width: int, dtype: torch.dtype) -> Embedding: ...

    def head(self, read: ReadRows, words: int, tied: Embedding | None) -> Any:
        """lm_head in the form that `sampler` takes; `tied`: the embedding, where it is the same matrix."""
        ...

    def sampler(self, head: Any, words: int, softcap: float) -> Sampler: ...

    def prm_head(self, kind: HeadKind, tensors: list[Tensor]) -> PrmHead:
        """A PRM head from its fp32 parameters.

        pair: [2, hidden], good first    mlp: W0 [n, hidden], b0 [n], W1 [2, n], b1 [2]    value: w [1, hidden], b [1]
        """
        ...

    def tensor(self, values: Tensor) -> Tensor:
        """A small tensor on the device."""
        ...

    def kv_pool(self, layers: int, blocks: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> Tensor:
        """Room for the KV of a model: [layer, block, kv_head, 2, block_slots * head_dim]."""
        ...

    def planner(self, tree: KvTree) -> Any:
        """An object whose `build(handles, counts)` gives the `AttentionPlan` of a forward pass."""
        ...

    def upload(self, plan: AttentionPlan, n_heads: int, head_dim: int) -> Plan:
        """The plan where the kernels can read it."""
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, out: Tensor, eps: float, add_one: bool) -> None: ...

    def add_rms_norm(
        self, update: Tensor, residual: Tensor, weight: Tensor, out: Tensor, eps: float, add_one: bool
    ) -> None:
        """residual += update, in place; out = its norm."""
        ...

    def act_mul(self, gate_up: Tensor, out: Tensor, activation: str) -> None: ...

    def rope_store(
        self, qkv: Tensor, plan: Plan, cos: Tensor, sin: Tensor, query: Tensor, kv_layer: Tensor, n_heads: int,
        n_kv_heads: int, head_dim: int, q_norm: Tensor | None, k_norm: Tensor | None, eps: float, add_one: bool,
    ) -> None:  # fmt: skip
        """Split qkv; rotated queries to `query`, rotated keys and values into the pool."""
        ...

    def tree_attention(
        self, query: Tensor, kv_layer: Tensor, plan: Plan, out: Tensor, scale: float, window: int, softcap: float
    ) -> None:
        """Attention of every row over its own path."""
        ...

    def stream(self, name: str) -> AbstractContextManager[None]:
        """Where work is queued: "policy" or "prm". They may overlap."""
        ...
