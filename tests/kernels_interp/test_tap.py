"""States that are pooled on the device, in bursts, are those of the CPU's single iterations."""

from __future__ import annotations

import pytest
import torch

from branchwise.backend.cpu.backend import CpuBackend
from branchwise.backend.gpu.interpreter import InterpBackend
from branchwise.engine.engine import StepEngine
from branchwise.engine.kv import KvCache
from branchwise.engine.tap import Tap
from branchwise.models.load import load_decoder
from branchwise.types import Settings
from checkpoints import character_tokenizer, random_checkpoint


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_bursts_pool_what_single_iterations_do(after: bool) -> None:
    found = []
    for backend in (CpuBackend(), InterpBackend()):
        model = load_decoder(random_checkpoint("llama", seed=11), torch.float32, backend)
        kv = KvCache(model.config, 200, torch.float32, backend)
        engine = StepEngine(model, character_tokenizer(), kv, tap=Tap((1, 3), after))
        settings = Settings(max_tokens=30, max_step_tokens=11, seed=5, states=True)
        tree = engine.open(list(range(4, 75)), lineage=1, branches=4, paths=4, steps=3, settings=settings)
        options = settings.step()
        engine.expand(tree, tree.root, 3, options)
        done = []
        while not engine.idle:
            done += [node for _, node in engine.poll()]
        done.sort(key=lambda node: node.lineage_path)
        found.append([(node.tokens, node.states) for node in done])
        assert engine.loop is None or engine.runner.stats.iterations > 8
    assert [tokens for tokens, _ in found[1]] == [tokens for tokens, _ in found[0]]
    for (_, cpu), (_, device) in zip(*found, strict=True):
        torch.testing.assert_close(device, cpu, rtol=1e-4, atol=1e-4)
