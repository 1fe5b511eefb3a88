"""Whole searches of the bundled pair: the tokens of the CPU, and bursts of iterations like single ones."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.engines import bundled_problems, checked
from benchmarks.gpu.stages import Bench, Record
from branchwise.api import Engine

Found = list[tuple[str, list[float]]]
SCORES = 1e-3  # what they may differ by


def tokens(bench: Bench) -> Iterator[Record]:
    """One record a strategy; fp32, so that two devices agree on every word."""
    count, n, most = (1, 2, 4) if bench.tiny else (10, 16, 256)
    found: dict[str, Found] = {}
    for strategy in ("beam",) if bench.tiny else ("greedy", "beam", "dvts"):
        found[strategy] = search(bench.device, strategy, count, n, most)
        same, scores = alike(found[strategy], search("cpu", strategy, count, n, most))
        right = same == count and scores <= SCORES
        yield {"kind": "tokens", "name": f"{strategy} as on the CPU", "right": right, "same": same, "scores": scores}
    same, scores = alike(found["beam"], search(bench.device, "beam", count, n, most, burst=1))
    yield {"kind": "tokens", "name": "bursts as iterations", "right": same == count, "same": same, "scores": scores}


def search(device: str, strategy: str, count: int, n: int, most: int, burst: int | None = None) -> Found:
    """Text and scores of the answers to the first problems; burst: iterations between two looks of the host."""
    problems = bundled_problems(count)
    options = {} if strategy == "greedy" else {"n": n, "expand": 2 if n < 8 else 4}
    with Engine(device=device, dtype="float32", kv_memory=256 << 20, max_tokens=most, seed=5) as engine:
        if burst is not None:
            engine.policy.model.backend.burst = burst
            engine.policy.loop = None if burst == 1 else engine.policy.loop
        found = sorted(checked(engine.solve_many(problems, strategy, **options)), key=lambda result: result.problem.id)
        return [(result.text, result.scores) for result in found]


def alike(found: Found, wanted: Found) -> tuple[int, float]:
    """How many texts are the same, and by how much scores differ at most."""
    same = sum(text == other for (text, _), (other, _) in zip(found, wanted, strict=True))
    pairs = [pair for (_, a), (_, b) in zip(found, wanted, strict=True) for pair in zip(a, b, strict=False)]
    return same, max((abs(x - y) for x, y in pairs), default=0.0)
