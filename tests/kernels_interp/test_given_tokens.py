"""Steps that begin with given tokens, and further prompts, in bursts: as in the CPU's single iterations."""

from __future__ import annotations

from dataclasses import replace

import torch

from branchwise.backend.cpu.backend import CpuBackend
from branchwise.backend.gpu.interpreter import InterpBackend
from branchwise.engine.engine import StepEngine
from branchwise.engine.kv import KvCache
from branchwise.models.load import load_decoder
from branchwise.types import Settings
from checkpoints import character_tokenizer, random_checkpoint


def test_bursts_go_on_from_given_tokens() -> None:
    """Caps count drawn tokens of a step, and all of a path from its own prompt on."""
    found = []
    for backend in (CpuBackend(), InterpBackend()):
        model = load_decoder(random_checkpoint("llama", seed=11), torch.float32, backend)
        engine = StepEngine(model, character_tokenizer(), KvCache(model.config, 200, torch.float32, backend))
        settings = Settings(max_tokens=16, max_step_tokens=9, seed=5)
        tree = engine.open(list(range(4, 75)), lineage=1, branches=4, paths=4, steps=3, settings=settings)
        planted = engine.plant(tree, tree.root, list(range(20, 50)), replace(settings, max_tokens=7))
        engine.expand(tree, tree.root, 2, settings.step(feed="so it is"))
        engine.expand(tree, tree.root, 1, settings.step(feed="12 characters", max_tokens=8))
        engine.expand(tree, planted, 1, settings.step())
        done = []
        while not engine.idle:
            done += [node for _, node in engine.poll()]
        done.sort(key=lambda node: node.lineage_path)
        found.append([(node.lineage_path, node.tokens, node.given, node.finish, node.cut) for node in done])
        assert [node.cost.generated_tokens for node in done] == [7, 8, 8, 3]
        assert engine.loop is None or engine.runner.stats.iterations > 8
    assert found[1] == found[0]
