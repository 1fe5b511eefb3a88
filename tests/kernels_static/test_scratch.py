"""Partials of deep trees take 64 MiB a stream at most, whatever the pass, and loops and passes share them."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu import synthetic
from benchmarks.gpu.dry import DryBackend
from benchmarks.gpu.trace import PeakBytes
from branchwise.backend.gpu.plan import PARTIALS_BYTES, TritonPlan, most_partials
from branchwise.engine.decode_loop import DecodeLoop, LoopRow
from branchwise.engine.kv import KvCache
from branchwise.engine.runner import Feed, Runner
from branchwise.engine.sampler import Draw, Sampler
from branchwise.models.load import load_decoder
from branchwise.text.steps import StepDetector
from branchwise.types import Sampling
from branchwise_kernels.attention_cost import partial_bytes

DEPTH, STEP, BRANCHES = 20, 32, 16


@pytest.fixture(scope="module")
def model():
    """Of the shape of the 7B PRM, its weights memory that nobody touches."""
    backend = DryBackend(90)
    return load_decoder(synthetic.Synthetic("qwen2.5-7b", backend.device, draw=False), torch.bfloat16, backend)


def deep(model, branches: int) -> tuple[KvCache, list[int]]:
    """Open nodes below as many steps as make a path of `DEPTH` nodes."""
    kv = KvCache(model.config, 2000, torch.bfloat16, model.backend)
    handle, length = kv.tree.add_root(), 200
    for depth in range(1, DEPTH):
        kv.tree.append(handle, length)
        kv.tree.seal(handle)
        leaves, length = kv.tree.fork(handle, branches if depth == DEPTH - 1 else 1), STEP
        handle = leaves[0]
    return kv, leaves


def partials_held(backend: DryBackend) -> int:
    """Bytes of partials, on the present stream."""
    return sum(flat.nbytes for (name, _), flat in backend.scratch._flat.items() if name.startswith("partial"))


@pytest.mark.parametrize("step", [STEP, 8 * STEP])
def test_a_pass_of_the_prm(model, step, monkeypatch):
    kv, leaves = deep(model, BRANCHES)
    made: list[TritonPlan] = []
    exact = TritonPlan.exact

    def told(*args):
        made.append(exact(*args))
        return made[-1]

    monkeypatch.setattr(TritonPlan, "exact", told)
    backend, config, rows = model.backend, model.config, BRANCHES * step
    backend.let_go()
    runner = Runner(model, kv)
    with PeakBytes() as memory:
        runner.forward([Feed(leaf, [5] * step) for leaf in leaves])
    (plan,) = made
    one = partial_bytes(config.n_heads, config.head_dim)
    assert one == 14_560
    needed = DEPTH * rows * one
    assert needed > (149e6 if step == STEP else 1e9)
    assert len(plan.arrays.items) == -(-rows // (most_partials(runner.shape) // DEPTH))
    assert partials_held(backend) <= PARTIALS_BYTES
    activations = rows * 2 * (2 * 2 * config.hidden_size + 4 * config.intermediate_size)  # in bf16, at most
    assert memory.peak <= PARTIALS_BYTES + activations + (20 << 20)


def test_a_recorded_loop(model):
    """512 branches of depth 20: in three runs, rounded up, and a pass after it needs no more."""
    kv, leaves = deep(model, 512)
    backend = model.backend
    backend.let_go()
    with backend.stream("policy"):
        rows = [LoopRow(handle, 5, Draw(1, i, 900, Sampling()), (0,), 1, 64, 4000) for i, handle in enumerate(leaves)]
        numbers = synthetic.Numbers(model.config.vocab_size)
        burst = DecodeLoop(model, Sampler(model), kv, backend).start(rows, StepDetector(numbers))
        plan = burst.loop.iteration.plan
        assert plan.path == "tree"
        assert len(plan.arrays.items) == 4
        assert DEPTH * 512 * partial_bytes(28, 128) > PARTIALS_BYTES
        held = partials_held(backend)
        assert 0 < held <= PARTIALS_BYTES
        Runner(model, kv).forward([Feed(leaf, [5]) for leaf in leaves])
        assert partials_held(backend) == held
    assert partials_held(backend) == 0  # another stream, other memory
