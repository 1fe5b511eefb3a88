"""A search through the whole engine with nothing computed: every pass with what it launches, moves and multiplies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.engines import checked
from benchmarks.gpu import synthetic
from benchmarks.gpu.host_time import HostClock
from benchmarks.gpu.trace import Launch, TraceBackend
from benchmarks.vs.taped import taped
from benchmarks.vs.workloads import Question, SearchTask, Tape
from branchwise._C import AttentionPlan
from branchwise.backend.base import (
    AttentionShape,
    BurstArrays,
    DrawArrays,
    Drawn,
    Floats,
    HeadKind,
    Ids,
    LoopKey,
    LoopParts,
)
from branchwise.backend.gpu.backend import DeviceLinear, TritonPrmHead
from branchwise.backend.gpu.loop import TritonLoop
from branchwise.backend.gpu.plan import most_partials
from branchwise.backend.gpu.sampler import TritonSampler
from branchwise.engine.runner import Feed, Runner
from branchwise.models.decoder import Decoder
from branchwise.pair.pair import ModelPair
from branchwise.search.driver import run
from branchwise.search.service import Service
from branchwise.search.session import SearchOptions
from branchwise.strategies import make_strategy
from branchwise.types import Problem, Sampling, Settings
from branchwise_kernels.attention_cost import attention_bytes
from branchwise_kernels.layout import PAGE, SMALL_TILE, appends, large_tile
from branchwise_kernels.runs import ROW_COUNT, cut_items, row_runs

POLICY, PRM, EXPAND = "qwen2.5-1.5b", "qwen2.5-7b", 4
WORDS = 100_003  # a prime, fewer than either model knows
KV_MEMORY = 40 << 30  # never touched


@dataclass(frozen=True)
class Pass:
    """One forward pass, or an iteration that is replayed `times`; programs: CTAs launched, working: that had work."""

    kind: str  # "iteration", "opening" or "PRM pass"
    times: int
    rows: int
    launches: int  # products included
    programs: int
    working: int
    moved: float  # bytes
    flops: float


@dataclass
class Tally:
    """What passes were seen."""

    passes: list[Pass] = field(default_factory=list)

    def add(self, kind: str, model: Decoder, plan: Any, path: str, launches: list[Launch], times: int = 1) -> None:
        """A pass over a host plan, from the launches that it made."""
        config, rows = model.config, plan.n_rows
        shape = AttentionShape(config.n_heads, config.n_kv_heads, config.head_dim)
        most = most_partials(shape) if path == "tree" else None
        cost = attention_bytes(plan, shape.n_heads, shape.n_kv_heads, shape.head_dim, itemsize=2, most=most)
        attention = cost.tree if path == "tree" else cost.rows
        slot = 2 * config.n_layers * config.n_kv_heads * config.head_dim * 2
        parameters = config.matmul_parameters - (model.head is None) * config.hidden_size * config.vocab_size
        moved = 2 * parameters + config.n_layers * attention + rows * slot
        scores = 4 * config.n_heads * config.head_dim * config.n_layers * plan.kv_slots_unshared
        launched = sum(prod(each.grid) for each in launches)
        work = working(launches, plan, model, most)
        flops = 2 * parameters * rows + scores
        self.passes.append(Pass(kind, times, rows, len(launches), launched, work, moved, flops))


def working(launches: list[Launch], plan: Any, model: Decoder, most: int | None) -> int:
    """Programs with a row or an item to work on; most: partials of a run of rows."""
    config, runs = model.config, row_runs(plan, most)
    queries = cut_items(plan, runs)[0][:, ROW_COUNT] * (config.n_heads // config.n_kv_heads)
    few = queries <= SMALL_TILE
    tile = large_tile(config.head_dim, 2, appends(plan))
    tiles = int(few.sum()) + int(-(-queries[~few] // tile).sum())
    total = tiles * config.n_kv_heads * config.n_layers if any(map(is_tree, launches)) else 0
    for each in launches:
        x, y, z = each.grid
        if each.kernel.startswith("lm_head_tile"):
            total += x * y * z
        elif each.kernel == "merge_states_kernel":  # one for every run, which has some of the rows
            total += plan.n_rows * y // (len(runs) - 1)
        elif not is_tree(each):
            total += min(x, plan.n_rows) * y * z
    return total


def is_tree(launch: Launch) -> bool:
    """Attention over shared segments: a program a tile of an item."""
    return launch.kernel == "tree_attention_kernel"


class DryLinear(DeviceLinear):
    """A product that is recorded, not computed."""

    launches: list[Launch]

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        self.launches.append(Launch("product", (0, 0, 0), 0, 0, ()))
        return x.new_empty(x.shape[0], self.out_features) if out is None else out


def words(draws: DrawArrays, known: int) -> Ids:
    """A word for every row, siblings' own ones: equal steps would be scored once."""
    return (draws.lineage % np.uint64(min(WORDS, known))).astype(np.int64)


class DrySampler(TritonSampler):
    """Draws nothing of the logits."""

    def draw(self, hidden: Tensor, draws: DrawArrays) -> Drawn:
        return Drawn(words(draws, len(self.weight)), np.zeros(len(draws), np.float32))


class DryLoop(TritonLoop):
    """Rows go on until their step's cap."""

    def start(self, plan: AttentionPlan, arrays: BurstArrays, iterations: int) -> None:
        super().start(plan, arrays, iterations)
        left = np.minimum(arrays.max_step - arrays.generated, iterations)
        running = np.arange(iterations)[:, None] < left
        self._drawn = np.where(running, words(arrays.draws, len(self.iteration.sampler.weight)), -1)

    def finish(self) -> Drawn:
        return Drawn(self._drawn, np.zeros(self._drawn.shape, np.float32))


class DryPrmHead(TritonPrmHead):
    """Finds all steps as good."""

    def __call__(self, hidden: Tensor) -> Floats:
        return np.full_like(super().__call__(hidden), 0.5)


class DryBackend(TraceBackend):
    """Records launches for a chosen architecture; weights are memory that nobody touches."""

    name = "dry"

    def linear(self, parts: Any, bias: Tensor | None = None) -> DeviceLinear:
        made = DryLinear(
            torch.empty(sum(part.shape[0] for part in parts), parts[0].shape[1], dtype=torch.bfloat16), bias
        )
        made.launches = self.launches
        return made

    def kv_pool(self, layers: int, blocks: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(1, blocks, kv_heads, 2, PAGE, head_dim, dtype=dtype).expand(layers, -1, -1, -1, -1, -1)

    def sampler(self, head: Tensor, words: int, softcap: float) -> TritonSampler:
        return DrySampler(head, softcap)

    def prm_head(self, kind: HeadKind, tensors: list[Tensor]) -> TritonPrmHead:
        return DryPrmHead(kind, tensors, self.device)

    def graph(self, function: Callable[[], None]) -> Callable[[], None]:
        function()
        return lambda: None

    def loop(self, key: LoopKey, parts: LoopParts) -> TritonLoop:
        return DryLoop(self, key, parts)


class CountedLoop(DryLoop):
    """Tells what its iterations launch."""

    launches: list[Launch]

    def start(self, plan: AttentionPlan, arrays: BurstArrays, iterations: int) -> None:
        counting = cast(CountingBackend, self.backend)
        counting.starting = plan.n_rows
        super().start(plan, arrays, iterations)
        with counting.clock.aside():
            times = int((self._drawn >= 0).any(1).sum())
            counting.tally.add("iteration", counting.policy, plan, self.path, self.launches, times)

    def finish(self) -> Drawn:
        cast(CountingBackend, self.backend).clock.landed()
        return super().finish()


class CountingBackend(DryBackend):
    """Counts what iterations of `policy`, to be set, launch, and how long the host takes between them."""

    policy: Decoder
    starting = 0  # rows of the burst that is being queued

    def __init__(self, arch: int) -> None:
        super().__init__(arch)
        self.tally, self.clock = Tally(), HostClock()

    def graph(self, function: Callable[[], None]) -> Callable[[], None]:
        function()
        return lambda: self.clock.started(self.starting)

    def loop(self, key: LoopKey, parts: LoopParts) -> TritonLoop:
        with self.clock.aside():
            self.launches.clear()
            made = CountedLoop(self, key, parts)
            made.launches = list(self.launches)
        return made


def watch(backend: CountingBackend, kind: str, runner: Runner) -> None:
    """Count the passes of a runner."""
    forward, planner = runner.forward, runner.kv.planner
    seen: list[Any] = []

    class Planner:
        def build(self, handles: Any, counts: Any) -> Any:
            seen[:] = [planner.build(handles, counts)]
            return seen[0]

    runner.kv.planner = Planner()

    def watched(feeds: list[Feed]) -> Tensor:
        backend.launches.clear()
        before = dict(runner.stats.attention_path)
        with backend.clock.launching(kind):
            hidden = forward(feeds)
        with backend.clock.aside():
            path = next(p for p, count in runner.stats.attention_path.items() if count > before.get(p, 0))
            backend.tally.add(kind, runner.model, seen[0], path, list(backend.launches))
        return hidden

    runner.forward = watched  # type: ignore[method-assign]


def dry_search(strategy: str, n: int, lengths: list[int], steps: int, arch: int = 90) -> tuple[list[Pass], HostClock]:
    """The passes of one search of n branches, each `steps` steps long, and the host's times."""
    backend = CountingBackend(arch)
    policy = synthetic.policy(POLICY, backend, torch.bfloat16, KV_MEMORY, draw=False)
    judge = synthetic.judge(PRM, backend, torch.bfloat16, KV_MEMORY, draw=False)
    backend.policy = policy.model
    most = max(lengths) * steps
    question = Question("problem", str(synthetic.PROMPT), None, "", [1] * synthetic.PROMPT, [], [], [])
    task = SearchTask(strategy, n, EXPAND, [question], steps, most, max(lengths), 1, tape=Tape(None, lengths, steps))
    forced, forced_judge = taped(policy, judge, task)
    watch(backend, "opening", forced.runner)
    watch(backend, "PRM pass", forced_judge.runner)
    settings = Settings(Sampling(0.8), max_tokens=most + 1, max_step_tokens=max(lengths) + 1, reuse=False)
    options = SearchOptions(make_strategy(strategy, n=n, expand=EXPAND, max_steps=steps), settings)
    problem = Problem(question.id, question.text, prompt=question.prompt)
    checked(run([problem], Service(ModelPair(forced, forced_judge, instruction="")), options, max_in_flight=1))
    return backend.tally.passes, backend.clock
