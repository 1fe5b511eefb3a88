"""What the engine launches for a decode iteration: the same twice over, and nothing that waits for the host.

That is the host's part of recording a CUDA graph; the recording itself needs a GPU.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.trace import Launch, TraceBackend
from branchwise.assets import asset_path
from branchwise.engine.decode_loop import DecodeLoop, LoopRow
from branchwise.engine.kv import KvCache
from branchwise.engine.runner import Feed, Runner
from branchwise.engine.sampler import Draw, Sampler
from branchwise.models.load import load_decoder
from branchwise.text.steps import StepDetector
from branchwise.types import Sampling
from branchwise.weights import open_checkpoint
from checkpoints import random_checkpoint

FILE = Path(__file__).with_name("launches.json")
ROWS = 20
MOST_PER_LAYER = 9
READS = ("cpu", "numpy", "tolist", "item", "__bool__", "__int__", "__float__", "__index__", "__array__")
FREE = ("empty", "empty_like", "new_empty", "empty_strided", "view", "_unsafe_view", "select", "slice", "t",
        "transpose", "detach", "alias", "as_strided", "expand", "unsqueeze", "permute")  # fmt: skip
WAITS = ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "masked_select", "unique", "equal")


class NoHost(TorchDispatchMode):
    """Fails where torch would read a tensor back, counts products, and lists what else torch would launch."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0
        self.others: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::").split(".")[0]
        assert name not in WAITS, f"{name} waits for the device"
        if name in ("mm", "addmm", "linear"):
            self.products += 1
        elif name not in FREE:
            self.others.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def policy():
    """The bundled policy in bf16, compiled for sm_90."""
    backend = TraceBackend(90)
    checkpoint = open_checkpoint(str(asset_path("policy-small")))
    return backend, checkpoint, load_decoder(checkpoint, torch.bfloat16, backend)


@pytest.fixture(scope="module")
def loop(policy):
    """A decode loop of the bundled policy."""
    return started(*policy)


def started(backend, checkpoint, model, taps=(), pooled=range(0)):
    """A decode loop over a tree of two levels."""
    kv = KvCache(model.config, 200, torch.bfloat16, backend)
    root = kv.tree.add_root()
    kv.tree.append(root, 90)
    kv.tree.seal(root)
    nothing = torch.zeros(len(pooled))
    rows = [
        LoopRow(handle, 5, Draw(1, lineage, 91, Sampling(0.8, 0.95, 0, 0.0)), (0,), 1, 64, 400, nothing)
        for lineage, handle in enumerate(kv.tree.fork(root, ROWS))
    ]
    decode = DecodeLoop(model, Sampler(model), kv, backend, taps, pooled)
    tokenizer = checkpoint.tokenizer()
    burst = decode.start(rows, StepDetector(tokenizer))
    return backend, burst.loop, model.config.n_layers


def recorded(backend: TraceBackend, loop) -> tuple[list[Launch], NoHost]:
    backend.launches.clear()
    with NoHost() as host, pytest.MonkeyPatch.context() as patch:
        for name in READS:  # on the CPU some of them reach no dispatcher
            patch.setattr(torch.Tensor, name, reads(name))
        loop.iteration()
    return list(backend.launches), host


def reads(name: str):
    def read(*_: object, **__: object) -> None:
        raise AssertionError(f"Tensor.{name} waits for the device")

    return read


def test_two_iterations_launch_the_same(loop):
    backend, decode, _ = loop
    (first, _), (second, _) = recorded(backend, decode), recorded(backend, decode)
    # Activations come from torch's allocator, which a recording pins; everything that lasts must not move.
    lasting = lasting_pointers(decode)

    def told(launches: list[Launch]) -> list[tuple[object, ...]]:
        return [
            (x.kernel, x.grid, x.warps, x.shared_bytes, tuple(p if p in lasting else None for p in x.pointers))
            for x in launches
        ]

    assert told(first) == told(second)
    assert len({p for launch in first for p in launch.pointers if p in lasting}) > 30


def lasting_pointers(loop) -> set[int]:
    """Addresses of the loop's own buffers, of the weights that kernels read, and of the KV."""
    one = loop.iteration
    model, kv_layers, _ = one.parts.forward.args
    holders = (one.plan, one.plan.arrays, one.state, one.draws, one.space, one.sampler, one, model)
    found = {layer.data_ptr() for layer in kv_layers} | {t.data_ptr() for t in model.rope.tensors()}
    holders += tuple(model.layers)
    for holder in holders:
        values = [getattr(holder, name, None) for name in (*vars_of(holder),)]
        found |= {value.data_ptr() for value in values if isinstance(value, torch.Tensor)}
    return found


def vars_of(holder) -> list[str]:
    return list(getattr(holder, "__dict__", None) or holder.__dataclass_fields__)


def test_few_launches_a_layer(loop):
    backend, decode, layers = loop
    launches, host = recorded(backend, decode)
    counted = Counter(launch.kernel for launch in launches)
    outside = sum(counted[name] for name in ("lm_head_tile_kernel", "lm_head_choose_kernel", "step_state_kernel")) + 1
    assert (len(launches) - outside) / layers <= MOST_PER_LAYER
    assert host.products == 4 * layers  # qkv, output, gate and up, down: cuBLAS
    assert len(host.others) <= 2, host.others  # embedding; position of the draw


def test_the_list_is_the_one_checked_in(loop):
    backend, decode, _ = loop
    launches, _ = recorded(backend, decode)
    found = [[launch.kernel, list(launch.grid), launch.warps] for launch in launches]
    assert found == json.loads(FILE.read_text())


def test_gemma_launches_few_too(policy):
    """Two norms a layer more than any other family."""
    backend, checkpoint = policy[0], random_checkpoint("gemma3")
    model = load_decoder(checkpoint, torch.bfloat16, backend)
    launches, host = recorded(backend, started(backend, checkpoint, model)[1])
    assert (len(launches) - 4) / model.config.n_layers <= MOST_PER_LAYER  # last norm, two of the draw, automaton
    assert len(host.others) <= 3, host.others  # embedding, its scale; position of the draw


def test_a_tap_adds_no_kernel_and_a_few_sums(policy):
    backend, checkpoint, model = policy
    width = model.config.hidden_size
    plain = recorded(backend, started(backend, checkpoint, model)[1])
    tapped = recorded(backend, started(backend, checkpoint, model, (1,), range(2 * width))[1])
    assert [launch.kernel for launch in tapped[0]] == [launch.kernel for launch in plain[0]]
    assert tapped[1].products == plain[1].products
    assert len(tapped[1].others) - len(plain[1].others) <= 9  # beside each other, sums, last states


@pytest.mark.parametrize(("prefix", "leaves", "path"), [(300, 20, "tree"), (3, 1, "rows")])
def test_the_path_in_the_stats_is_the_one_that_ran(policy, prefix, leaves, path):
    backend, _, model = policy
    kv = KvCache(model.config, 64, torch.bfloat16, backend)
    root = kv.tree.add_root()
    kv.tree.append(root, prefix)
    kv.tree.seal(root)
    runner = Runner(model, kv)
    backend.launches.clear()
    runner.forward([Feed(leaf, [5]) for leaf in kv.tree.fork(root, leaves)])
    ran = {launch.kernel for launch in backend.launches if "attention" in launch.kernel}
    assert ran == {f"{path.removesuffix('s')}_attention_kernel"}
    assert dict(runner.stats.attention_path) == {path: 1}


def test_a_wait_would_be_found():
    with pytest.raises(AssertionError, match="waits for the device"), NoHost():
        torch.ones(1).item()
