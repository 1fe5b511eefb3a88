"""The first iteration of new steps, which the host launches kernel by kernel today, beside the same one replayed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.gpu import synthetic
from benchmarks.gpu.stages import Bench, Record
from benchmarks.gpu.timing import seconds_of
from branchwise.backend.gpu.backend import TritonBackend
from branchwise.backend.select import open_backend
from branchwise.engine.engine import StepEngine


def openings(bench: Bench) -> Iterator[Record]:
    """16 and 64 branches whose last token is fed: a pass through all layers."""
    backend = open_backend(bench.device)
    assert isinstance(backend, TritonBackend)
    name, dtype = ("tiny", torch.float32) if bench.tiny else ("qwen2.5-1.5b", torch.bfloat16)
    policy = synthetic.policy(name, backend, dtype, (64 << 20) if bench.tiny else 2 << 30)
    for rows in (2,) if bench.tiny else (16, 64):
        with backend.stream("policy"):
            launched, replayed = both(policy, backend, len(synthetic.prompt_tokens(name)), rows)
        yield {
            "kind": "opening",
            "model": name,
            "rows": rows,
            "launched_ms": launched * 1e3,
            "replayed_ms": replayed * 1e3,
        }


def both(policy: StepEngine, backend: TritonBackend, prompt: int, rows: int) -> tuple[float, float]:
    """Seconds of a pass with every launch made by the host, and of the same pass recorded."""
    tree, model = policy.kv.tree, policy.model
    root = tree.add_root()
    tree.append(root, prompt)
    tree.seal(root)
    leaves = tree.fork(root, rows)
    for leaf in leaves:
        tree.append(leaf, 1)
    plan = policy.kv.planner.build(np.array(leaves, np.int64), np.ones(rows, np.int32))
    uploaded = backend.upload(plan, policy.runner.shape)
    tokens = backend.tensor(torch.ones(rows, dtype=torch.int64))

    def run() -> None:
        model.forward(tokens, uploaded, policy.kv.layers)

    times = seconds_of(run, backend.device), seconds_of(backend.graph(run), backend.device)
    for node in (*leaves, root):
        tree.prune(node)
    return times
