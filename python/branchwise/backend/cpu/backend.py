"""The CPU backend: every operation in C++. A row's result never depends on the rows beside it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from math import prod
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from branchwise import _C
from branchwise.backend.base import (
    AttentionPath,
    AttentionShape,
    DrawArrays,
    Drawn,
    Embedding,
    Floats,
    HeadKind,
    ReadMatrix,
    ReadRows,
)
from branchwise.backend.cpu.linear import PackedLinear, gated_linear, packed_linear
from branchwise.backend.cpu.recorded import RecordedLayers
from branchwise.backend.cpu.weight_cache import PackedFolder
from branchwise.backend.device import Device
from branchwise.backend.memory import cpu_kv_budget, free_memory, return_freed
from branchwise.config import Weights
from branchwise.errors import ConfigError
from branchwise.weights.read_ahead import ReadAhead

LARGEST_HEAD = 512  # dimensions: kMaxHeadDim of the kernels
BLOCK_SLOTS = 32  # keys are scored 32 at a time
HEAD_TILE_WORDS = 8192  # words of lm_head multiplied at once: a tile of logits stays in cache
GROUP_ROWS = 256  # rows sampled at once: every group reads lm_head again; bounds the logits kept for top-k and top-p

# Pages of 2 MiB for torch's large tensors, as for our own memory: streaming through small pages takes half as long
# again. torch looks once, at its first allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def sparse_memory(size: int, dtype: torch.dtype) -> Tensor:
    """A tensor [size] of which little will be written: in small pages, where torch and numpy ask for those of 2 MiB."""
    memory = mmap.mmap(-1, max(1, size) * dtype.itemsize)
    with suppress(AttributeError, OSError):  # only Linux has them, and not every Linux
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype, count=size)


class LazyEmbedding:
    """Embeddings of the tokens that were ever used, read from the checkpoint when a token is first seen.

    Large vocabularies are mostly never seen, and a tied lm_head holds a packed copy of all rows already: memory that is
    never written is never taken from the system. The checkpoint must stay in place while the model is used.
    """

    def __init__(self, read: ReadRows, words: int, width: int, dtype: torch.dtype) -> None:
        self._read_rows = read
        self._rows = sparse_memory(words * width, dtype).view(words, width)
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

    def __init__(self, head: list[PackedLinear], words: int, softcap: float) -> None:
        self.head = head
        self.softcap = softcap
        self.fused = _C.HeadSampler(GROUP_ROWS, words)

    def draw(self, hidden: Tensor, draws: DrawArrays) -> Drawn:
        """A token for every row; hidden: [rows, hidden]."""
        return Drawn.joined([self._draw(hidden, draws, begin) for begin in range(0, len(draws), GROUP_ROWS)])

    def logits(self, hidden: Tensor) -> Tensor:
        """All logits: [rows, words] fp32; hidden: [rows, hidden]."""
        logits = torch.cat([tile(hidden).float() for tile in self.head], dim=1)
        return logits if self.softcap == 0 else torch.tanh(logits / self.softcap) * self.softcap

    def _draw(self, hidden: Tensor, draws: DrawArrays, begin: int) -> Drawn:
        part = slice(begin, begin + GROUP_ROWS)
        self.fused.begin(
            draws.seed[part], draws.lineage[part], draws.position[part], draws.temperature[part], draws.top_p[part],
            draws.top_k[part], draws.min_p[part],
        )  # fmt: skip
        if draws.penalties is not None:
            given = draws.penalties.part(part)
            self.fused.penalise(
                given.repetition, given.presence, given.frequency, given.begins, given.words, given.counts
            )
        if draws.top is not None:
            self.fused.ask_sureness(draws.top[part])
        rows, word = hidden[part], 0
        room = rows.new_empty(len(rows) * HEAD_TILE_WORDS)
        views: dict[int, Tensor] = {}  # by words: made once, for every operation of torch is slow between kernels
        for tile in self.head:
            words = tile.out_features
            if words not in views:
                views[words] = room[: len(rows) * words].view(-1, words)
            self.fused.tile(tile(rows, views[words]), word, self.softcap)
            word += words
        ids, logprobs = self.fused.finish()
        return Drawn(ids.astype(np.int64), logprobs, None if draws.top is None else self.fused.sureness())


def _mean_probability(logits: Tensor) -> Floats:
    each: Floats = _C.prm_probability(logits.reshape(-1, 1), "sigmoid").reshape(len(logits), -1)
    mean: Floats = each.mean(1, dtype=np.float64).astype(np.float32)
    return mean


class CpuPrmHead:
    """A PRM head in fp32, one row at a time in effect."""

    _read: dict[HeadKind, Callable[[Tensor], Floats]] = {  # noqa: RUF012
        "pair": lambda logits: _C.prm_probability(logits, "softmax0"),
        "mlp": lambda logits: _C.prm_probability(logits, "softmax1"),
        "value": lambda logits: _C.prm_probability(logits, "sigmoid"),
        "logit": lambda logits: logits[:, 0].numpy().copy(),
        "ensemble": _mean_probability,
    }

    def __init__(self, kind: HeadKind, tensors: list[Tensor]) -> None:
        self.kind = kind
        pairs = [(tensors[0], None)] if kind == "pair" else list(zip(tensors[::2], tensors[1::2], strict=True))
        self.layers = [packed_linear([weight], bias) for weight, bias in pairs]

    def __call__(self, hidden: Tensor) -> Floats:
        x = hidden.float()
        for layer in self.layers[:-1]:
            x = layer(x).relu_()
        return self._read[self.kind](self.layers[-1](x))


class CpuBackend(Device):
    """The `Backend` of the machine's own cores. One instance serves one engine."""

    name = "cpu"
    device = torch.device("cpu")
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    weights: tuple[str, ...] = get_args(Weights)
    block_slots = BLOCK_SLOTS
    burst = 1
    kv_budget = staticmethod(cpu_kv_budget)
    kernels = staticmethod(_C.isa)
    free_memory = staticmethod(free_memory)

    sampler = TileSampler
    prm_head = CpuPrmHead
    rms_norm = staticmethod(_C.rms_norm)
    add_rms_norm = staticmethod(_C.add_rms_norm)
    rope_store = staticmethod(_C.rope_store)
    linear = staticmethod(packed_linear)
    gated = staticmethod(gated_linear)

    replayed = RecordedLayers
    weight_cache = PackedFolder

    def embedding(self, read: ReadRows, words: int, width: int, dtype: torch.dtype) -> LazyEmbedding:
        return LazyEmbedding(read, words, width, dtype)

    def head(self, read: ReadMatrix, words: int, tied: Embedding | None) -> list[PackedLinear]:
        tiles = []
        spans = [(begin, min(begin + HEAD_TILE_WORDS, words)) for begin in range(0, words, HEAD_TILE_WORDS)]
        with ReadAhead(lambda span: read(*span), spans) as matrix:
            for span in spans:
                tiles.append(packed_linear([matrix(span)]))
                return_freed()  # else what was read lies between the packed tiles, as large as they are
        return tiles

    def attention_path(self, plan: Any) -> AttentionPath:
        return "tree"

    def tensor(self, values: Tensor) -> Tensor:
        return values

    def kv_width(self, head_dim: int) -> int:
        if head_dim % 8 or not 8 <= head_dim <= LARGEST_HEAD:
            raise ConfigError(f"heads of {head_dim} dimensions: the kernels take multiples of 8 up to {LARGEST_HEAD}")
        return _C.kv_width(head_dim)

    def table(self, rows: int, width: int) -> Tensor:
        return sparse_memory(rows * width, torch.float32).view(rows, width)

    def kv_pool(self, layers: int, blocks: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> Tensor:
        """How K and V lie in a block: `kv_width` in csrc/cpu/isa/kernels.h. Memory is taken when first written."""
        shape = layers, blocks, kv_heads, 2, self.kv_width(head_dim)
        return torch.from_numpy(_C.large_memory(prod(shape) * dtype.itemsize)).view(dtype).view(shape)

    def planner(self, tree: _C.KvTree) -> _C.Planner:
        return _C.Planner(tree)

    def upload(self, plan: _C.AttentionPlan, shape: AttentionShape) -> _C.AttentionPlan:
        return plan

    def tree_attention(
        self, query: Tensor, kv_layer: Tensor, plan: Any, out: Tensor, head_dim: int, scale: float, window: int,
        softcap: float,
    ) -> None:  # fmt: skip
        _C.tree_attention(query, kv_layer, plan, out, head_dim, scale, window, softcap)

    def last_rows(self, x: Tensor, plan: Any) -> Tensor:
        return x[: _C.keep_last_rows(x, plan)]

    def stream(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()
