"""What an iteration costs beside its kernels: the time of every kernel call, taken from that of the whole iteration.

    PYTHONPATH=. python benchmarks/engine/bench_overhead.py --policy qwen2.5-0.5b.gguf --rows 16 --save

Everything else is overhead: Python, the plan, allocations, the bookkeeping of rows. `--profile` lists its functions.
"""

from __future__ import annotations

import cProfile
import pstats
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import branchwise as bw
from benchmarks.common import report
from benchmarks.engine.bench_decode import TEXT
from benchmarks.engines import growing
from benchmarks.options import model_parser, parse
from branchwise import _C
from branchwise.types import Sampling

SAMPLER = ("begin", "tile", "finish")


class Stopwatch:
    """Seconds spent in the calls that it wraps, by name."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        seconds, clock = self.seconds, time.perf_counter

        def timed(*arguments: Any) -> Any:
            begin = clock()
            result = function(*arguments)
            seconds[name] += clock() - begin
            return result

        return timed


class Timed:
    """Stands in for an object, with its calls or some of its methods under a stopwatch."""

    def __init__(self, inner: Any, watch: Stopwatch, name: str, methods: tuple[str, ...] = ()) -> None:
        self._inner = inner
        self._call = watch.wrap(name, inner) if callable(inner) else None
        for method in methods:
            setattr(self, method, watch.wrap(f"{name}.{method}", getattr(inner, method)))

    def __call__(self, *arguments: Any) -> Any:
        assert self._call is not None
        return self._call(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@contextmanager
def kernels_timed(engine: bw.Engine) -> Iterator[Stopwatch]:
    """Put a stopwatch on every kernel of the policy: the recorded pass, lm_head, the sampler."""
    watch = Stopwatch()
    layers: Any = engine.policy.runner.layers
    sampler: Any = engine.policy.sampler.fused
    head, fused = sampler.head, sampler.fused
    calls, layers.calls = layers.calls, Timed(layers.calls, watch, "layers", ("run",))
    sampler.head = [Timed(tile, watch, "lm_head") for tile in head]
    sampler.fused = Timed(fused, watch, "sampler", SAMPLER)
    try:
        yield watch
    finally:
        layers.calls, sampler.head, sampler.fused = calls, head, fused


@contextmanager
def warm(engine: bw.Engine, rows: int, tokens: int, sampling: Sampling) -> Iterator[None]:
    """`rows` branches under one 110-token prompt, past their first iterations, none of which ends."""
    prompt = (engine.policy.tokenizer.encode(TEXT) * 5)[:110]
    with growing(engine.policy, prompt, rows, tokens + 8, sampling):
        for _ in range(4):
            engine.policy.poll()
        yield


def bench(engine: bw.Engine, rows: int, tokens: int, sampling: Sampling) -> dict[str, Any]:
    """Medians over the iterations of one run."""
    iterations, others = [], []
    parts: dict[str, list[float]] = {}
    with warm(engine, rows, tokens, sampling), kernels_timed(engine) as watch:
        for _ in range(tokens - 4):
            watch.seconds.clear()
            begin = time.perf_counter()
            engine.policy.poll()
            whole = time.perf_counter() - begin
            iterations.append(whole)
            others.append(whole - watch.seconds.total())
            for name, seconds in watch.seconds.items():
                parts.setdefault(name, []).append(seconds)
    iteration, other = statistics.median(iterations), statistics.median(others)
    return {
        "bench": "overhead",
        "rows": rows,
        "sampling": {"temperature": sampling.temperature, "top_p": sampling.top_p},
        "iteration_ms": round(iteration * 1e3, 3),
        "overhead_ms": round(other * 1e3, 3),
        "overhead_share": round(other / iteration, 4),
        "kernels_ms": {name: round(statistics.median(values) * 1e3, 3) for name, values in sorted(parts.items())},
        "isa": _C.isa(),
        "threads": torch.get_num_threads(),
        "dtype": engine.resolved.dtype,
        "weights": engine.resolved.weights,
    }


def profile(engine: bw.Engine, rows: int, tokens: int, sampling: Sampling) -> None:
    """Print the functions that take the most time of their own; kernels stand among them as built-in functions."""
    profiler = cProfile.Profile()
    with warm(engine, rows, tokens, sampling):
        profiler.enable()
        for _ in range(tokens - 4):
            engine.policy.poll()
        profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


def main() -> None:
    parser = model_parser(__doc__, "overhead")
    parser.add_argument("--rows", type=int, nargs="+", default=[16])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    options = parse(parser)
    if options.quick:
        options.tokens, options.runs = 24, 1
    engine = bw.Engine(
        options.policy, dtype=options.dtype, weights=options.weights, threads=options.threads, kv_memory=1 << 30
    )
    sampling = Sampling(0.8, 0.95)
    if options.profile:
        for rows in options.rows:
            profile(engine, rows, options.tokens, sampling)
    model = Path(options.policy).stem
    records = (
        {**bench(engine, rows, options.tokens, sampling), "model": model}
        for rows in options.rows
        for _ in range(options.runs)
    )
    report("overhead", records, options.save)


if __name__ == "__main__":
    main()
