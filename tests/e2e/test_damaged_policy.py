"""A policy whose logits hold NaN or infinity: an error for the search that met it, which names the model."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import branchwise as bw
from branchwise.assets import asset_path
from branchwise.backend.base import DrawArrays, Drawn
from branchwise.errors import CheckpointError


def damaged_copy(folder: Path, value: float, tensor: str) -> Path:
    """The bundled policy with one tensor full of `value`."""
    shutil.copytree(asset_path("policy-small"), folder, ignore=lambda *_: ["model.safetensors"])
    tensors = load_file(asset_path("policy-small") / "model.safetensors")
    name = next(name for name in sorted(tensors) if tensor in name)
    save_file({**tensors, name: torch.full_like(tensors[name], value)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1}, {"top_p": 0.9}, {"top_k": 3}], ids=str)
def test_every_search_fails_with_a_name(tmp_path: Path, value: float, sampling: dict[str, float]) -> None:
    folder = damaged_copy(tmp_path / "broken-policy", value, "norm")
    with bw.Engine(folder, kv_memory=64 << 20, max_tokens=40, **sampling) as engine:
        with pytest.raises(CheckpointError, match="broken-policy: the policy gave NaN or infinity for token 1"):
            engine.solve("1+2=?", "greedy")
        results = list(engine.solve_many(["1+2=?", "2+3=?"], "majority", n=2))
        assert [type(result.error) for result in results] == [CheckpointError] * 2
        assert engine.policy.kv.free_blocks == engine.policy.kv.n_blocks
        with engine.open("1+2=?", branches=2) as tree, pytest.raises(CheckpointError, match="broken-policy"):
            tree.expand(tree.root, 2)


@pytest.fixture
def engine() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=128 << 20, max_tokens=60) as made:
        yield made


@pytest.mark.parametrize("strategy", ["majority", "beam"])
def test_only_the_search_that_met_it_ends(engine: bw.Engine, monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    problems = [bw.Problem(f"p{i}", f"{i}+12*3-4=?", seed=i) for i in range(4)]
    options = {"n": 4, "expand": 2} if strategy == "beam" else {"n": 4}

    def texts() -> dict[str, list[str] | None]:
        results = list(engine.solve_many(problems, strategy, **options))
        return {
            each.problem.id: None if each.error else sorted(one.text for one in each.candidates) for each in results
        }

    before = texts()
    draw = engine.policy.sampler.fused.draw

    def sometimes(hidden: torch.Tensor, draws: DrawArrays) -> Drawn:
        ids, logprobs, *_ = draw(hidden, draws)
        bad = (draws.seed == 2) & (draws.position > 40)
        return Drawn(np.where(bad, -1, ids), np.where(bad, np.float32(np.nan), logprobs))

    with monkeypatch.context() as patch:
        patch.setattr(engine.policy.sampler.fused, "draw", sometimes)
        assert texts() == {**before, "p2": None}
    assert texts() == before
    assert engine.policy.kv.free_blocks == engine.policy.kv.n_blocks
