"""The launches of production: every kernel at the sizes of the models that people search with, bf16 or fp16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from branchwise_kernels.gated_activation import gelu_mul, silu_mul
from branchwise_kernels.layout import PAGE, PlanSize, empty_plan
from branchwise_kernels.lm_head_sample import DrawTensors, HeadWorkspace, PenaltyTensors, lm_head_sample
from branchwise_kernels.merge_states import merge_states
from branchwise_kernels.prm_head import PrmHeadWeights, prm_head
from branchwise_kernels.rms_norm import add_rms_norm, rms_norm
from branchwise_kernels.rope_and_store import rope_and_store
from branchwise_kernels.row_attention import row_attention
from branchwise_kernels.step_state import StepState, step_state
from branchwise_kernels.sureness import SureTensors
from branchwise_kernels.tree_attention import tree_attention

HALF, CPU = torch.bfloat16, torch.device("cpu")
FEW = 8  # rows of the smallest bucket


@dataclass(frozen=True)
class Model:
    """Sizes of one model. prm: the kind of its PRM head, if it has one."""

    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    inter: int
    words: int
    qk_norm: bool = False
    add_one: bool = False
    window: int = 0
    softcap: float = 0.0
    gelu: bool = False
    prm: str = ""


MODELS = {
    "qwen2.5-1.5b": Model(12, 2, 128, 1536, 8960, 151_936, prm="pair"),
    "qwen2.5-math-prm-7b": Model(28, 4, 128, 3584, 18_944, 152_064, prm="mlp"),
    "llama-3.2-1b": Model(32, 8, 64, 2048, 8192, 128_256, prm="value"),
    "qwen3-4b": Model(32, 8, 128, 2560, 9728, 151_936, qk_norm=True),
    "gemma-3-1b": Model(4, 1, 256, 1152, 6912, 262_144, qk_norm=True, add_one=True, window=512, gelu=True),
    "gemma-2-2b": Model(8, 4, 256, 2304, 9216, 256_000, add_one=True, window=4096, softcap=50.0, gelu=True),
    "danube2-1.8b": Model(32, 8, 80, 2560, 6912, 32_000, window=4096),
    "danube3-500m": Model(16, 8, 96, 1536, 4096, 32_000),
}
PLAIN = ["qwen2.5-1.5b", "llama-3.2-1b", "gemma-3-1b"]  # the default run; the others are variants of these


def empty(*shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Memory that nothing touches: a launch is only recorded."""
    return torch.empty(shape, dtype=HALF if dtype is None else dtype)


def launches(model: Model, rows: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """(name, launch) of every kernel of a decode iteration with `rows` branches, and of the work around it."""
    group = model.heads // model.kv_heads
    size = PlanSize.for_rows(rows, 8 * rows, group, 4096)
    plan, append = empty_plan(size, CPU), empty_plan(replace(size, append=True), CPU)
    hidden, width = empty(rows, model.hidden), model.heads * model.head_dim
    query, mixed = empty(rows, width), empty(rows, width)
    pool = empty(4096, model.kv_heads, 2, PAGE, model.head_dim)
    partials = len(plan.row_partials)
    parts = (
        empty(partials, model.heads, model.head_dim, dtype=torch.float32),
        empty(partials, model.heads, dtype=torch.float32),
        empty(partials, model.heads, dtype=torch.float32),
    )
    attention = (model.heads, model.head_dim**-0.5, model.window, model.softcap)
    norm = empty(model.head_dim) if model.qk_norm else None
    angle = empty(32_768, model.head_dim // 2, dtype=torch.float32)
    gate = gelu_mul if model.gelu else silu_mul
    weight = empty(model.hidden)
    yield "rms_norm", lambda: rms_norm(hidden, weight, hidden.clone(), 1e-6, model.add_one)
    yield "add_rms_norm", lambda: add_rms_norm(hidden, hidden.clone(), weight, hidden.clone(), 1e-6, model.add_one)
    yield "gate", lambda: gate(empty(rows, 2 * model.inter), empty(rows, model.inter))
    yield "rope_and_store", lambda: rope_and_store(
        empty(rows, width + 2 * model.kv_heads * model.head_dim), plan.positions, plan.slots, angle, angle, query, pool,
        model.heads, model.kv_heads, model.head_dim, norm, norm, 1e-6, model.add_one, plan.counts,
    )  # fmt: skip
    yield "tree_attention", lambda: tree_attention(query, pool, plan, *parts, *attention)
    yield "tree_attention_append", lambda: tree_attention(query, pool, append, *parts, *attention)
    yield "merge_states", lambda: merge_states(*parts, plan, mixed)
    yield "row_attention", lambda: row_attention(query, pool, plan, mixed, *attention)
    for filtered in (False, True):
        for name, count in (("", rows), ("_few", FEW)):
            yield (
                f"lm_head_sample{'_filtered' if filtered else ''}{name}",
                lambda count=count, f=filtered: sample(model, count, f),
            )
    yield "lm_head_sample_sure", lambda: sample(model, rows, False, sure=True)
    yield "step_state", lambda: advance(model, plan.positions, plan.slots, plan.pages)
    if model.prm:
        yield f"prm_head_{model.prm}", lambda: judge(model, rows)


def sample(model: Model, rows: int, filtered: bool, penalised: bool = False, sure: bool = False) -> None:
    """One draw for every row."""
    wide, narrow, real = (torch.zeros(rows, dtype=dtype) for dtype in (torch.int64, torch.int32, torch.float32))
    seen = torch.zeros(rows if penalised else 0, model.words, dtype=torch.int32)
    penalties = PenaltyTensors(real, real, real, seen) if penalised else None
    asked = SureTensors.empty(rows, 8, CPU) if sure else None
    draws = DrawTensors(wide, wide, narrow, real, real, narrow, real, penalties, asked)
    space = HeadWorkspace.empty(rows, model.words, filtered, CPU, penalised=penalised, sure=sure)
    lm_head_sample(
        empty(rows, model.hidden), empty(model.words, model.hidden), draws, 0.0, space, narrow, real, filtered
    )


def advance(model: Model, positions: Tensor, slots: Tensor, pages: Tensor) -> None:
    """The step automaton of the default delimiter: so many functions on so many states."""
    state = StepState.empty(positions, slots, 8)
    narrow, real = torch.zeros(len(positions), dtype=torch.int32), torch.zeros(len(positions))
    step_state(narrow, real, state, empty(model.words, dtype=torch.int32), empty(140, 1870, dtype=torch.int16), pages)


def judge(model: Model, rows: int) -> None:
    """One score for every row."""
    shapes = {
        "pair": [(2, model.hidden)],
        "value": [(1, model.hidden), (1,)],
        "mlp": [(model.hidden, model.hidden), (model.hidden,), (2, model.hidden), (2,)],
    }
    weights = PrmHeadWeights.of(model.prm, [torch.zeros(shape) for shape in shapes[model.prm]])
    prm_head(empty(rows, model.hidden), weights, torch.zeros(rows))
