"""Decode iterations as they are replayed: milliseconds, share of the roofline, and the gap that the host leaves."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch

from benchmarks.engines import growing
from benchmarks.gpu import synthetic
from benchmarks.gpu.stages import Bench, Record
from benchmarks.gpu.watch import Watch, gaps
from branchwise.backend.gpu.backend import TritonBackend
from branchwise.backend.select import open_backend
from branchwise.engine.engine import StepEngine
from branchwise.types import Sampling

TOKENS = 128  # of a sample
PLAIN, NUCLEUS = Sampling(0.8), Sampling(0.8, 0.95)


def decode(bench: Bench) -> Iterator[Record]:
    """Samples of one prompt, 16, 64 and 256 side by side; top-p at 64."""
    backend = open_backend(bench.device)
    assert isinstance(backend, TritonBackend)
    dtype = torch.float32 if bench.tiny else torch.bfloat16
    for name in ("tiny",) if bench.tiny else ("qwen2.5-1.5b", "qwen2.5-0.5b", "qwen2.5-7b"):
        if not synthetic.fits(name, backend, dtype):
            yield {"kind": "replay", "model": name, "skipped": f"{name} leaves too little memory"}
            continue
        watch = Watch(backend)
        policy = synthetic.policy(name, backend, dtype, 64 << 20 if bench.tiny else 6 << 30)
        for rows, sampling in ((2, PLAIN),) if bench.tiny else ((64, PLAIN), (64, NUCLEUS), (16, PLAIN), (256, PLAIN)):
            yield from samples(bench, name, policy, watch, rows, sampling)
        del policy, watch


def samples(
    bench: Bench, name: str, policy: StepEngine, watch: Watch, rows: int, sampling: Sampling
) -> Iterator[Record]:
    """`rows` samples, once to warm up."""
    tokens = 9 if bench.tiny else TOKENS
    for _ in range(1 if bench.tiny else 2):
        watch.clear()
        before = policy.runner.stats.kv_bytes_read, policy.runner.stats.iterations
        begin, done = time.perf_counter(), 0
        with growing(policy, synthetic.prompt_tokens(name), rows, tokens, sampling):
            while done < rows:
                done += len(policy.poll())
        spent = time.perf_counter() - begin
    replays = watch.intervals("replays")
    each = statistics.median(end - start for start, end in replays)
    stats = policy.runner.stats
    read = (stats.kv_bytes_read - before[0]) / (stats.iterations - before[1])
    moved = weight_bytes(policy) + read
    ideal = max(moved / bench.bandwidth, policy.flops_per_token * rows / bench.flops)
    facts: Record = {"model": name, "rows": rows, "top_p": sampling.top_p}
    yield {"kind": "replay", **facts, "ms": each * 1e3, "of_roofline": ideal / each, "kv_bytes": read}
    between = gaps(replays, policy.model.backend.burst)
    yield {
        "kind": "samples",
        **facts,
        "tokens_per_s": rows * tokens / spent,
        "host_gap_us": 1e6 * statistics.median(between) if between else None,
        "attention_path": dict(stats.attention_path),
    }


def weight_bytes(policy: StepEngine) -> float:
    """What a token is multiplied with, read once."""
    return policy.flops_per_token / 2 * policy.model.dtype.itemsize
