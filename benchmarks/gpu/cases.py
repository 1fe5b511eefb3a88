"""Every kernel with its data, its twin, and what it moves and multiplies: one case per op at a model's sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.timing import RUNS
from branchwise import _C
from branchwise_kernels import reference
from branchwise_kernels.attention_cost import attention_bytes
from branchwise_kernels.gated_activation import gelu_mul, silu_mul
from branchwise_kernels.layout import CHUNK_SLOTS, MAX_ITEM_ROWS, PAGE, plan_from
from branchwise_kernels.lm_head_sample import DrawTensors, HeadWorkspace, lm_head_sample
from branchwise_kernels.merge_states import merge_states
from branchwise_kernels.prm_head import PrmHeadWeights, prm_head
from branchwise_kernels.rms_norm import add_rms_norm, rms_norm
from branchwise_kernels.rope_and_store import rope_and_store
from branchwise_kernels.row_attention import row_attention
from branchwise_kernels.step_state import StepState, step_state
from branchwise_kernels.sureness import SureTensors
from branchwise_kernels.tree_attention import tree_attention


@dataclass(frozen=True)
class Size:
    """Sizes of a policy and of one iteration of a search."""

    rows: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    inter: int
    words: int
    prompt: int
    step: int


FULL = Size(64, 12, 2, 128, 1536, 8960, 151_936, 1000, 48)  # Qwen2.5-1.5B
TINY = Size(6, 4, 2, 32, 64, 96, 300, 70, 5)  # for the interpreter


class Written(list[Tensor]):
    """Outputs, and the launch alone that writes them again: what is timed."""

    again: Callable[[], object]


@dataclass(frozen=True)
class Case:
    """`run` and `twin` write to outputs of their own; both return them. moved: bytes, flops: of tensor products."""

    name: str
    run: Callable[[], Written]
    twin: Callable[[], Written]
    moved: float
    flops: float = 0.0


class Data:
    """Random tensors of one dtype on one device."""

    def __init__(self, size: Size, dtype: torch.dtype, device: torch.device) -> None:
        self.size, self.dtype, self.device = size, dtype, device
        self.random = torch.Generator().manual_seed(0)

    def tensor(self, *shape: int, dtype: torch.dtype | None = None, scale: float = 1.0) -> Tensor:
        values = torch.randn(shape, generator=self.random) * scale
        return values.to(self.dtype if dtype is None else dtype).to(self.device)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Poisoned: what a kernel leaves out is found."""
        dtype = self.dtype if dtype is None else dtype
        return torch.full(shape, float("nan") if dtype.is_floating_point else -77, dtype=dtype, device=self.device)

    def integers(self, high: int, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.randint(0, high, shape, generator=self.random, dtype=dtype).to(self.device)


def cases(size: Size, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    """All cases; each holds its memory only while it is in use."""
    data = Data(size, dtype, device)
    yield from elementwise(data)
    yield from attention(data)
    yield from sampling(data)
    yield from scoring(data)


def elementwise(data: Data) -> Iterator[Case]:
    size, width = data.size, data.dtype.itemsize
    rows, hidden = size.rows, size.hidden
    x, weight, residual = data.tensor(rows, hidden), data.tensor(hidden), data.tensor(rows, hidden)

    def norm(op: Callable[..., None]) -> Callable[[], Written]:
        return lambda: written(lambda out: op(x, weight, out, 1e-6, False), data.empty(rows, hidden))

    def add_norm(op: Callable[..., None]) -> Callable[[], Written]:
        return lambda: written(
            lambda total, out: op(x, total, weight, out, 1e-6, False), residual.clone(), data.empty(rows, hidden)
        )

    yield Case("rms_norm", norm(rms_norm), norm(reference.rms_norm), 2 * rows * hidden * width)
    yield Case("add_rms_norm", add_norm(add_rms_norm), add_norm(reference.add_rms_norm), 4 * rows * hidden * width)
    gate_up = data.tensor(rows, 2 * size.inter)

    def gate(op: Callable[..., None]) -> Callable[[], Written]:
        return lambda: written(lambda out: op(gate_up, out), data.empty(rows, size.inter))

    for op, twin in ((silu_mul, reference.silu_mul), (gelu_mul, reference.gelu_mul)):
        yield Case(twin.__name__, gate(op), gate(twin), 3 * rows * size.inter * width)


def attention(data: Data) -> Iterator[Case]:
    size, width = data.size, data.dtype.itemsize
    heads, kv_heads, dim = size.heads, size.kv_heads, size.head_dim
    tree = _C.KvTree(-(-size.prompt // PAGE) + size.rows * (-(-size.step // PAGE)), PAGE)
    root = tree.add_root()
    tree.append(root, size.prompt)
    tree.seal(root)
    leaves = tree.fork(root, size.rows)
    for leaf in leaves:
        tree.append(leaf, size.step)
    planner = _C.Planner(tree, chunk_slots=CHUNK_SLOTS, max_item_rows=MAX_ITEM_ROWS)
    host = planner.build(np.array(leaves, np.int64), np.ones(len(leaves), np.int32))
    plan = plan_from(host, heads // kv_heads, data.device)
    pool, query = data.tensor(tree.n_blocks, kv_heads, 2, PAGE, dim), data.tensor(size.rows, heads * dim)
    cost = attention_bytes(host, heads, kv_heads, dim, width)
    flops = 4 * heads * dim * host.kv_slots_unshared
    scale = dim**-0.5

    def rows_attend() -> Written:
        return written(lambda out: row_attention(query, pool, plan, out, heads, scale), data.empty(*query.shape))

    def partials() -> list[Tensor]:
        return [data.empty(host.n_partials, heads, *rest, dtype=torch.float32) for rest in ((dim,), (), ())]

    def tree_attend(op: Callable[..., None]) -> Callable[[], Written]:
        return lambda: written(lambda *parts: op(query, pool, plan, *parts, heads, scale), *partials())

    def merge(op: Callable[..., None]) -> Callable[[], Written]:
        parts = partials()
        reference.tree_attention(query, pool, plan, *parts, heads, scale)
        return lambda: written(lambda out: op(*parts, plan, out), data.empty(*query.shape))

    twin = tree_attend(reference.tree_attention)
    yield Case("tree_attention", tree_attend(tree_attention), twin, cost.tree_kv + cost.tree_partials / 2, flops)
    folded = merge(reference.merge_states)
    yield Case("merge_states", merge(merge_states), folded, cost.tree_partials / 2 + query.numel() * width)
    yield Case("row_attention", rows_attend, folded, cost.rows, flops)
    qkv, angle = data.tensor(size.rows, (heads + 2 * kv_heads) * dim), data.tensor(2048, dim // 2, dtype=torch.float32)

    def rope(op: Callable[..., None]) -> Callable[[], Written]:
        fixed = (heads, kv_heads, dim, None, None, 1e-6, False, plan.counts)
        return lambda: written(
            lambda q, kv: op(qkv, plan.positions, plan.slots, angle.cos(), angle.sin(), q, kv, *fixed),
            data.empty(*query.shape), pool.clone(),
        )  # fmt: skip

    yield Case("rope_and_store", rope(rope_and_store), rope(reference.rope_and_store), 2 * qkv.numel() * width)


def sampling(data: Data) -> Iterator[Case]:
    size, rows = data.size, data.size.rows
    hidden, weight = data.tensor(rows, size.hidden), data.tensor(size.words, size.hidden, scale=2 * size.hidden**-0.5)
    real = torch.full((rows,), 0.8, device=data.device)
    keys = data.integers(2**62, rows, dtype=torch.int64)
    off = torch.zeros(rows, device=data.device)
    plain = DrawTensors(keys, keys + 1, data.integers(999, rows), real, off + 1, off.int(), off)
    moved, flops = weight.numel() * data.dtype.itemsize, 2 * rows * weight.numel()
    for name, draws in (("lm_head_sample", plain), ("lm_head_sample top_p", replace(plain, top_p=off + 0.95))):
        filtered = name != "lm_head_sample"
        space = HeadWorkspace.empty(rows, size.words, filtered, data.device)

        def run(
            op: Callable[..., None], draws: DrawTensors = draws, space: HeadWorkspace = space, f: bool = filtered
        ) -> Callable[[], Written]:
            return lambda: written(
                lambda tokens, logprobs: op(hidden, weight, draws, 0.0, space, tokens, logprobs, f),
                data.empty(rows, dtype=torch.int32), data.empty(rows, dtype=torch.float32),
            )  # fmt: skip

        yield Case(name, run(lm_head_sample), run(reference.lm_head_sample), moved, flops)
    roomy = HeadWorkspace.empty(rows, size.words, False, data.device, sure=True)
    asked = SureTensors.empty(rows, 1, data.device)
    asked.top.fill_(20)

    def tell(op: Callable[..., None]) -> Callable[[], Written]:
        def told(tokens: Tensor, logprobs: Tensor, found: Tensor) -> None:
            op(hidden, weight, replace(plain, sure=replace(asked, found=found)), 0.0, roomy, tokens, logprobs, False)

        return lambda: written(
            told, data.empty(rows, dtype=torch.int32), data.empty(rows, dtype=torch.float32),
            data.empty(1, rows, 2, dtype=torch.float32),
        )  # fmt: skip

    yield Case("lm_head_sample sure", tell(lm_head_sample), tell(reference.lm_head_sample), moved, flops)


def scoring(data: Data) -> Iterator[Case]:
    size, rows, dim = data.size, data.size.rows, data.size.hidden
    hidden = data.tensor(rows, dim)
    shapes = {"pair": [(2, dim)], "value": [(1, dim), (1,)], "mlp": [(dim, dim), (dim,), (2, dim), (2,)]}
    for kind, wanted in shapes.items():
        tensors = [data.tensor(*shape, dtype=torch.float32, scale=0.05) for shape in wanted]
        weights = PrmHeadWeights.of(kind, tensors)

        def run(op: Callable[..., None], weights: PrmHeadWeights = weights) -> Callable[[], Written]:
            return lambda: written(lambda p: op(hidden, weights, p), data.empty(rows, dtype=torch.float32))

        moved = hidden.numel() * data.dtype.itemsize + 4 * sum(tensor.numel() for tensor in tensors)
        yield Case(f"prm_head {kind}", run(prm_head), run(reference.prm_head), moved)

    drawn, functions = data.integers(size.words, rows), data.integers(50, size.words)
    transitions, pages = data.integers(3, 50, 3, dtype=torch.int16), data.integers(99, rows)

    def advance(op: Callable[..., None]) -> Callable[[], Written]:
        def run() -> Written:
            state = StepState.empty(torch.zeros_like(drawn), torch.zeros_like(drawn), 2 * RUNS)
            state.finish.zero_(), state.max_step.fill_(9), state.last_position.fill_(9)
            logprobs = torch.zeros(rows, device=data.device)
            outputs = state.finish, state.automata, state.positions, state.slots, state.ring_tokens
            return written(lambda *_: op(drawn, logprobs, state, functions, transitions, pages), *outputs)

        return run

    yield Case("step_state", advance(step_state), advance(reference.step_state), 14 * 4 * rows)


def written(launch: Callable[..., object], *outputs: Tensor) -> Written:
    """Launch, and return the outputs."""
    launch(*outputs)
    done = Written(outputs)
    done.again = lambda: launch(*outputs)
    return done
