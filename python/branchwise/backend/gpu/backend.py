"""What all backends with Triton kernels share: the GPU, the interpreter on the CPU, and the tracing one.

Weights lie on the device as torch tensors and are multiplied by cuBLAS; every other operation is a kernel of
`branchwise_kernels`. A block of KV is one page of 64 slots, K and V both [slot][head_dim].
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from branchwise._C import AttentionPlan, KvTree, Planner
from branchwise.backend.base import (
    AttentionPath,
    AttentionShape,
    DrawArrays,
    Floats,
    HeadKind,
    Layers,
    LoopKey,
    LoopParts,
    PrmHead,
    ReadMatrix,
    ReadRows,
    WeightCache,
)
from branchwise.backend.device import Device
from branchwise.backend.gpu.loop import TritonLoop, loop_key
from branchwise.backend.gpu.plan import TritonPlan, cheaper_path, most_partials
from branchwise.backend.gpu.sampler import TritonSampler
from branchwise.backend.gpu.scratch import Scratch
from branchwise.backend.memory import cpu_kv_budget, free_memory
from branchwise.errors import ConfigError
from branchwise.weights.blocks import Matrix
from branchwise_kernels.gated_activation import gelu_mul, silu_mul
from branchwise_kernels.layout import CHUNK_SLOTS, MAX_ITEM_ROWS, PAGE, shared_bytes
from branchwise_kernels.prm_head import PrmHeadWeights, prm_head
from branchwise_kernels.rms_norm import add_rms_norm, rms_norm
from branchwise_kernels.rope_and_store import rope_and_store

LARGEST_HEAD = 256  # dimensions: a tile of keys and one of values must fit into 100 KiB of shared memory
READ_WORDS = 8192  # rows of a table brought to the device at once


class DeviceLinear:
    """A linear layer on the device."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.out_features, self.in_features = weight.shape
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x: [rows, in] -> [rows, out]; recorded graphs have memory of their own for the result."""
        return F.linear(x, self.weight, self.bias)


class DeviceGated:
    """act(gate(x)) * up(x): one product, then the activation."""

    def __init__(self, both: DeviceLinear, activation: str) -> None:
        self.both = both
        self.in_features, self.out_features = both.in_features, both.out_features // 2
        self.activate = silu_mul if activation == "silu" else gelu_mul

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x: [rows, in] -> [rows, inner]."""
        out = x.new_empty(x.shape[0], self.out_features) if out is None else out
        self.activate(self.both(x), out)
        return out


class DeviceEmbedding:
    """The whole embedding table on the device; a tied lm_head reads the same memory."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def __call__(self, tokens: Tensor) -> Tensor:
        """tokens: [rows] int64 -> [rows, hidden]."""
        return F.embedding(tokens, self.table)


class TritonPrmHead:
    """A PRM head as one launch."""

    def __init__(self, kind: HeadKind, tensors: list[Tensor], device: torch.device) -> None:
        self.weights = PrmHeadWeights.of(kind, [tensor.to(device).contiguous() for tensor in tensors])

    def __call__(self, hidden: Tensor) -> Floats:
        probability = torch.empty(len(hidden), device=hidden.device)
        prm_head(hidden, self.weights, probability)
        scores: Floats = probability.cpu().numpy()
        return scores


class TorchPrmHead:
    """A PRM head that is too rare for a kernel."""

    def __init__(self, kind: HeadKind, tensors: list[Tensor], device: torch.device) -> None:
        self.kind = kind
        on_device = [tensor.to(device) for tensor in tensors]
        self.layers = list(zip(on_device[::2], on_device[1::2], strict=True))

    def __call__(self, hidden: Tensor) -> Floats:
        x = hidden.float()
        for weight, bias in self.layers[:-1]:
            x = F.linear(x, weight, bias).relu_()
        x = F.linear(x, *self.layers[-1])
        value: Floats = (x[:, 0] if self.kind == "logit" else x.sigmoid().mean(1)).cpu().numpy()
        return value


class TritonBackend(Device):
    """The `Backend` over Triton kernels; subclasses say which device and how work is recorded."""

    name = "triton"
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16)
    weights: tuple[str, ...] = ("dense",)
    block_slots = PAGE
    burst = 8  # a row that ends early idles for four iterations on average; the host looks an eighth as often
    free_memory = staticmethod(free_memory)
    kv_budget = staticmethod(cpu_kv_budget)

    rms_norm = staticmethod(rms_norm)
    add_rms_norm = staticmethod(add_rms_norm)

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.scratch = Scratch(device)  # of the stream that work is queued on now
        self._scratches = {"default": self.scratch}

    def kernels(self) -> str:
        return self.name

    def shared_memory(self) -> int:
        """Bytes that a block of a kernel may take."""
        return 1 << 30

    def let_go(self) -> bool:
        """Recorded loops that nobody runs, and what they share."""
        found = super().let_go()
        cleared = [each.clear() for each in self._scratches.values()]
        return any(cleared) or found

    # --- weights and memory --------------------------------------------------------------------------------------

    def weight_cache(self, folder: str | os.PathLike[str]) -> WeightCache:
        raise ConfigError(
            f"weight_cache={str(folder)!r} keeps weights as the CPU's kernels read them, device {self.name!r} takes"
            " them from the checkpoint: leave weight_cache out, or choose device='cpu'"
        )

    def replayed(self, layers: Layers) -> Layers:
        return layers  # bursts are recorded whole

    def tensor(self, values: Tensor) -> Tensor:
        return values.to(self.device)

    def linear(self, parts: Sequence[Matrix], bias: Tensor | None = None) -> DeviceLinear:
        dense = cast(Sequence[Tensor], parts)  # nobody asks for blocks: they are not among `weights`
        weight = torch.cat([self.tensor(part) for part in dense]) if len(dense) > 1 else self.tensor(dense[0])
        return DeviceLinear(weight, None if bias is None else self.tensor(bias))

    def gated(self, gate: Matrix, up: Matrix, activation: str) -> DeviceGated:
        return DeviceGated(self.linear([gate, up]), activation)

    def _table(self, read: ReadRows, words: int) -> Tensor:
        """A whole table, brought over piece by piece so that the host never holds more than one."""
        first = read(0, min(READ_WORDS, words))
        table = torch.empty(words, first.shape[1], dtype=first.dtype, device=self.device)
        table[: len(first)] = first
        for begin in range(READ_WORDS, words, READ_WORDS):
            table[begin : begin + READ_WORDS] = read(begin, min(begin + READ_WORDS, words))
        return table

    def embedding(self, read: ReadRows, words: int, width: int, dtype: torch.dtype) -> DeviceEmbedding:
        return DeviceEmbedding(self._table(read, words))

    def head(self, read: ReadMatrix, words: int, tied: Any) -> Tensor:
        if isinstance(tied, DeviceEmbedding):
            return tied.table
        return self._table(cast(ReadRows, read), words)

    def sampler(self, head: Tensor, words: int, softcap: float) -> TritonSampler:
        return TritonSampler(head, softcap)

    def prm_head(self, kind: HeadKind, tensors: list[Tensor]) -> PrmHead:
        made = TorchPrmHead if kind in ("logit", "ensemble") else TritonPrmHead
        return made(kind, tensors, self.device)

    def kv_width(self, head_dim: int) -> int:
        return self.block_slots * head_dim

    def table(self, rows: int, width: int) -> Tensor:
        return torch.empty(rows, width, device=self.device)

    def kv_pool(self, layers: int, blocks: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> Tensor:
        """[layer, page, kv_head, 2, 64, head_dim], zeroed once: slots never written are finite."""
        if head_dim % 2 or not 8 <= head_dim <= LARGEST_HEAD:
            raise ConfigError(
                f"heads of {head_dim} dimensions: the kernels take even ones of 8 to {LARGEST_HEAD}; use device='cpu'"
            )
        need = shared_bytes(head_dim, dtype.itemsize)
        if need > self.shared_memory():
            raise ConfigError(
                f"heads of {head_dim} dimensions in {str(dtype).removeprefix('torch.')} need {need // 1024} KiB of "
                f"shared memory, this GPU has {self.shared_memory() // 1024} KiB: use dtype='bfloat16'"
            )
        return torch.zeros(layers, blocks, kv_heads, 2, PAGE, head_dim, dtype=dtype, device=self.device)

    # --- plans -----------------------------------------------------------------------------------------------------

    def planner(self, tree: KvTree) -> Planner:
        return Planner(tree, chunk_slots=CHUNK_SLOTS, max_item_rows=MAX_ITEM_ROWS)

    def upload(self, plan: AttentionPlan, shape: AttentionShape) -> TritonPlan:
        return TritonPlan.exact(plan, shape, self.scratch)

    def attention_path(self, plan: TritonPlan) -> AttentionPath:
        return plan.path

    # --- operations --------------------------------------------------------------------------------------------------

    def rope_store(
        self, qkv: Tensor, plan: TritonPlan, cos: Tensor, sin: Tensor, query: Tensor, kv_layer: Tensor, n_heads: int,
        n_kv_heads: int, head_dim: int, q_norm: Tensor | None, k_norm: Tensor | None, eps: float, add_one: bool,
    ) -> None:  # fmt: skip
        arrays = plan.arrays
        rope_and_store(
            qkv, arrays.positions, arrays.slots, cos, sin, query, kv_layer, n_heads, n_kv_heads, head_dim, q_norm,
            k_norm, eps, add_one, arrays.counts,
        )  # fmt: skip

    def tree_attention(
        self, query: Tensor, kv_layer: Tensor, plan: TritonPlan, out: Tensor, head_dim: int, scale: float, window: int,
        softcap: float,
    ) -> None:  # fmt: skip
        plan.attend(query, kv_layer, out, scale, window, softcap)

    def last_rows(self, x: Tensor, plan: TritonPlan) -> Tensor:
        return x if plan.last_rows is None else x[plan.last_rows]

    # --- streams and graphs ------------------------------------------------------------------------------------------

    @contextmanager
    def stream(self, name: str) -> Iterator[None]:
        """Each has a scratch of its own, for nothing puts the work of two into an order."""
        before, self.scratch = self.scratch, self._scratches.setdefault(name, Scratch(self.device))
        try:
            yield
        finally:
            self.scratch = before

    def graph(self, function: Callable[[], None]) -> Callable[[], None]:
        """`function` in a form that is cheap to run again on the same memory."""
        return function

    def download(self, *tensors: Tensor) -> Callable[[], list[NDArray[Any]]]:
        """Queue copies to the host; what comes back waits for them."""
        copies = [tensor.cpu().numpy() for tensor in tensors]
        return lambda: copies

    # --- decoding without the host ---------------------------------------------------------------------------------

    def loop_key(self, plan: AttentionPlan, draws: DrawArrays, shape: AttentionShape) -> LoopKey:
        return loop_key(plan, draws, cheaper_path(plan, shape), most_partials(shape))

    def loop(self, key: LoopKey, parts: LoopParts) -> TritonLoop:
        return TritonLoop(self, key, parts)
