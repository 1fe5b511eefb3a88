"""The CPU backend: linear layers through oneDNN or our GEMM, everything else in C++.

A row's result never depends on the rows beside it, nor on the thread count. The matrix products are chosen for that:

- fp32: oneDNN with weights packed once; its rows are bit-identical for any batch from 2 up, so a single row is doubled.
- bf16: the same where the CPU multiplies bf16 in vector registers (AVX-512-BF16). Without such units oneDNN does not
  pack bf16, and on AMX its order of summation changes with the batch; there the GEMM of `csrc/cpu` takes over.

`benchmarks/kernels/bench_gemm.py` has the figures behind this choice.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from branchwise import _C
from branchwise.backend.base import (
    AttentionPath,
    AttentionShape,
    DrawArrays,
    Embedding,
    Floats,
    HeadKind,
    Ids,
    ReadRows,
)
from branchwise.backend.memory import cpu_kv_budget, free_memory, return_freed

BLOCK_SLOTS = 32  # keys are scored 32 at a time
HEAD_TILE_WORDS = 8192  # words of lm_head multiplied at once: a tile of logits stays in cache
GROUP_ROWS = 64  # rows sampled at once: bounds the logits that top-k and top-p keep


@cache
def onednn_packs_bf16() -> bool:
    """Whether oneDNN's packed bf16 product is both fast and row-invariant here: AVX-512-BF16 without AMX."""
    return bool(torch.cpu._is_avx512_bf16_supported()) and not torch.cpu._is_amx_tile_supported()


class Linear:
    """A linear layer with its weight packed once.

    weight: [out, in] fp32|bf16, not kept    bias: [out] of the same dtype, or None
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        self.bias = bias
        self._onednn: Tensor | None = None
        self._own: Any = None
        if weight.dtype == torch.float32 or onednn_packs_bf16():
            self._onednn = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        else:
            self._own = _C.PackedWeight(weight)

    def __call__(self, x: Tensor) -> Tensor:
        """x: [rows, in] -> [rows, out], both in the weight's dtype."""
        if self._onednn is None:
            out = torch.empty(len(x), self.out_features, dtype=self.dtype)
            _C.gemm(x, self._own, out, self.bias)
            return out
        if len(x) == 1:
            return self._onednn_product(x.expand(2, -1).contiguous())[:1]
        return self._onednn_product(x)

    def _onednn_product(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._onednn, self.bias, "none", [], "")
        return y


class LazyEmbedding:
    """Embeddings of the tokens that were ever used, read from the checkpoint when a token is first seen.

    Large vocabularies are mostly never seen, and a tied lm_head holds a packed copy of all rows already: memory that is
    never written is never taken from the system. The checkpoint must stay in place while the model is used.
    """

    def __init__(self, read: ReadRows, words: int, width: int, dtype: torch.dtype) -> None:
        self._read_rows = read
        self._rows = torch.empty(words, width, dtype=dtype)
        self._known = torch.zeros(words, dtype=torch.bool)

    def __call__(self, tokens: Tensor) -> Tensor:
        """tokens: [rows] int64 -> [rows, hidden]. CheckpointError when the checkpoint can no longer be read."""
        if not self._known[tokens].all():
            self._read(sorted(set(tokens[~self._known[tokens]].tolist())))
        return self._rows[tokens]

    def _read(self, tokens: list[int]) -> None:
        for token in tokens:
            self._rows[token] = self._read_rows(token, token + 1)[0]
        self._known[torch.tensor(tokens)] = True


class TileSampler:
    """lm_head tile by tile, each tile sampled while it is in cache."""

    def __init__(self, head: list[Linear], words: int, softcap: float) -> None:
        self.head = head
        self.softcap = softcap
        self.fused = _C.HeadSampler(GROUP_ROWS, words)

    def draw(self, hidden: Tensor, draws: DrawArrays) -> tuple[Ids, Floats]:
        """Token ids and log-probabilities; hidden: [rows, hidden]."""
        parts = [self._draw(hidden, draws, begin) for begin in range(0, len(draws), GROUP_ROWS)]
        ids, logprobs = zip(*parts, strict=True)
        return np.concatenate(ids), np.concatenate(logprobs)

    def _draw(self, hidden: Tensor, draws: DrawArrays, begin: int) -> tuple[Ids, Floats]:
        part = slice(begin, begin + GROUP_ROWS)
        self.fused.begin(
            draws.seed[part], draws.lineage[part], draws.position[part], draws.temperature[part], draws.top_p[part],
            draws.top_k[part], draws.min_p[part],
        )  # fmt: skip
        rows, word = hidden[part], 0
        for tile in self.head:
            self.fused.tile(tile(rows), word, self.softcap)
            word += tile.out_features
        ids, logprobs = self.fused.finish()
        return np.asarray(ids), np.asarray(logprobs)


class _HeadLinear:
    """An fp32 linear layer whose rows never depend on each other: our own GEMM, whatever the machine."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.packed = _C.PackedWeight(weight)
        self.bias = bias
        self.out_features = len(weight)

    def __call__(self, x: Tensor) -> Tensor:
        out = torch.empty(len(x), self.out_features)
        _C.gemm(x, self.packed, out, self.bias)
        return out


class CpuPrmHead:
    """A PRM head in fp32, one row at a time in effect."""

    _links: dict[HeadKind, str] = {"pair": "softmax0", "mlp": "softmax1", "value": "sigmoid"}  # noqa: RUF012

    def __init__(self, kind: HeadKind, tensors: list[Tensor]) -> None:
        self.link = self._links[kind]
        pairs = [(tensors[0], None)] if kind == "pair" else list(zip(tensors[::2], tensors[1::2], strict=True))
        self.layers = [_HeadLinear(weight, bias) for weight, bias in pairs]

    def __call__(self, hidden: Tensor) -> Floats:
        x = hidden.float()
        for layer in self.layers[:-1]:
            x = layer(x).relu_()
        return _C.prm_probability(self.layers[-1](x), self.link)


class CpuBackend:
    """The `Backend` of the machine's own cores. One instance serves one engine."""

    name = "cpu"
    device = torch.device("cpu")
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    block_slots = BLOCK_SLOTS
    burst = 1
    kv_budget = staticmethod(cpu_kv_budget)
    free_memory = staticmethod(free_memory)

    linear = Linear
    sampler = TileSampler
    prm_head = CpuPrmHead
    rms_norm = staticmethod(_C.rms_norm)
    add_rms_norm = staticmethod(_C.add_rms_norm)
    act_mul = staticmethod(_C.act_mul)
    rope_store = staticmethod(_C.rope_store)

    def __init__(self) -> None:
        self._workspace = _C.Workspace()

    def embedding(self, read: ReadRows, words: int, width: int, dtype: torch.dtype) -> LazyEmbedding:
        return LazyEmbedding(read, words, width, dtype)

    def head(self, read: ReadRows, words: int, tied: Embedding | None) -> list[Linear]:
        tiles = []
        for begin in range(0, words, HEAD_TILE_WORDS):
            tiles.append(Linear(read(begin, min(begin + HEAD_TILE_WORDS, words))))
            return_freed()  # else what was read lies between the packed tiles, as large as they are
        return tiles

    def attention_path(self, plan: Any) -> AttentionPath:
        return "tree"

    def tensor(self, values: Tensor) -> Tensor:
        return values

    def kv_pool(self, layers: int, blocks: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> Tensor:
        """K of a block is [head_dim][slot], V [slot][head_dim]; memory is taken when it is first written."""
        return torch.empty(layers, blocks, kv_heads, 2, BLOCK_SLOTS * head_dim, dtype=dtype)

    def planner(self, tree: _C.KvTree) -> _C.Planner:
        return _C.Planner(tree)

    def upload(self, plan: _C.AttentionPlan, shape: AttentionShape) -> _C.AttentionPlan:
        return plan

    def tree_attention(
        self, query: Tensor, kv_layer: Tensor, plan: Any, out: Tensor, scale: float, window: int, softcap: float
    ) -> None:
        _C.tree_attention(query, kv_layer, plan, out, scale, window, softcap, self._workspace)

    def stream(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()
