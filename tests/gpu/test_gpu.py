"""On a real GPU: kernels against their twins, recorded bursts against single iterations, searches against the CPU."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.gpu.cases import FULL, TINY, cases
from benchmarks.gpu.kernels import REL_L2, error
from branchwise.api import Engine
from branchwise.assets import asset_path
from branchwise.types import Problem

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),  # a library's warning on a card of its own is no failure
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use"),
]


@pytest.mark.parametrize("size", [TINY, FULL], ids=["tiny", "qwen2.5-1.5b"])
@pytest.mark.parametrize("dtype", list(REL_L2), ids=str)
def test_kernels_equal_their_twins(size, dtype):
    for case in cases(size, dtype, torch.device("cuda")):
        for got, want in zip(case.run(), case.twin(), strict=True):
            assert error(got, want) <= REL_L2[dtype], case.name


def search(device: str, strategy: str, burst: int | None = None) -> list[tuple[str | None, list[float]]]:
    lines = asset_path("problems.jsonl").read_text().splitlines()[:10]
    problems = [Problem(each["id"], each["problem"]) for each in map(json.loads, lines)]
    with Engine(device=device, dtype="float32", kv_memory=256 << 20) as engine:
        if burst is not None:
            engine.policy.model.backend.burst = burst
            engine.policy.loop = None if burst == 1 else engine.policy.loop
        found = sorted(engine.solve_many(problems, strategy, seed=5), key=lambda result: result.problem.id)
        return [(result.text, result.scores) for result in found]


@pytest.mark.parametrize("strategy", ["greedy", "beam", "dvts"])
def test_the_same_search_as_on_the_cpu(strategy):
    for (text, scores), (cpu_text, cpu_scores) in zip(search("cuda", strategy), search("cpu", strategy), strict=True):
        assert text == cpu_text
        assert scores == pytest.approx(cpu_scores, abs=1e-3)


def test_recorded_bursts_equal_single_iterations():
    assert [text for text, _ in search("cuda", "beam")] == [text for text, _ in search("cuda", "beam", burst=1)]
