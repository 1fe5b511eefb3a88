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

from branchwise.assets import asset_path
from branchwise.backend.trace import Launch, TraceBackend
from branchwise.engine.decode_loop import DecodeLoop, LoopRow
from branchwise.engine.kv import KvCache
from branchwise.engine.sampler import Draw, Sampler
from branchwise.models.load import load_decoder
from branchwise.text.steps import StepDetector
from branchwise.types import Sampling
from branchwise.weights import open_checkpoint

FILE = Path(__file__).with_name("launches.json")
ROWS = 20
MOST_PER_LAYER = 9
WAITS = ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "masked_select", "unique", "equal")


class NoHost(TorchDispatchMode):
    """Fails where torch would read a tensor back, and counts products."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::").split(".")[0]
        assert name not in WAITS, f"{name} waits for the device"
        self.products += name in ("mm", "addmm", "linear")
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def loop():
    """A decode loop of the bundled policy in bf16 over a tree of two levels, compiled for sm_90."""
    backend = TraceBackend(90)
    checkpoint = open_checkpoint(str(asset_path("policy-small")))
    model = load_decoder(checkpoint, torch.bfloat16, backend=backend)
    kv = KvCache(model.config, 200, torch.bfloat16, backend)
    root = kv.tree.add_root()
    kv.tree.append(root, 90)
    kv.tree.seal(root)
    rows = [
        LoopRow(handle, 5, Draw(1, lineage, 91, Sampling(0.8, 0.95, 0, 0.0)), 0, 1, 64, 400)
        for lineage, handle in enumerate(kv.tree.fork(root, ROWS))
    ]
    decode = DecodeLoop(model, Sampler(model), kv, backend)
    tokenizer = checkpoint.tokenizer()
    burst = decode.start(rows, StepDetector(tokenizer), tokenizer.eos_ids)
    return backend, burst.loop, model.config.n_layers


def recorded(backend: TraceBackend, loop) -> tuple[list[Launch], int]:
    backend.launches.clear()
    with NoHost() as host:
        loop.iterate()
    return list(backend.launches), host.products


def test_two_iterations_launch_the_same(loop):
    backend, decode, _ = loop
    (first, _), (second, _) = recorded(backend, decode), recorded(backend, decode)
    assert [(x.kernel, x.grid, x.warps, x.shared_bytes) for x in first] == [
        (x.kernel, x.grid, x.warps, x.shared_bytes) for x in second
    ]
    # Activations come from torch's allocator, which a recording pins; everything that lasts must not move.
    lasting = [
        {p for launch in launches for p in launch.pointers if p in lasting_pointers(decode)}
        for launches in (first, second)
    ]
    assert lasting[0] == lasting[1]
    assert len(lasting[0]) > 20


def lasting_pointers(loop) -> set[int]:
    """Addresses of the loop's own buffers."""
    holders = (loop.plan, loop.plan.arrays, loop.state, loop._draws, loop._space, loop)
    found = set()
    for holder in holders:
        values = [getattr(holder, name, None) for name in (*vars_of(holder),)]
        found |= {value.data_ptr() for value in values if isinstance(value, torch.Tensor)}
    return found


def vars_of(holder) -> list[str]:
    return list(getattr(holder, "__dict__", None) or holder.__dataclass_fields__)


def test_few_launches_a_layer(loop):
    backend, decode, layers = loop
    launches, products = recorded(backend, decode)
    counted = Counter(launch.kernel for launch in launches)
    outside = sum(counted[name] for name in ("lm_head_tile_kernel", "lm_head_choose_kernel", "step_state_kernel")) + 1
    assert (len(launches) - outside) / layers <= MOST_PER_LAYER
    assert products == 4 * layers  # qkv, output, gate and up, down: cuBLAS


def test_the_list_is_the_one_checked_in(loop):
    backend, decode, _ = loop
    launches, _ = recorded(backend, decode)
    found = [[launch.kernel, list(launch.grid), launch.warps] for launch in launches]
    assert found == json.loads(FILE.read_text())


def test_a_wait_would_be_found():
    with pytest.raises(AssertionError, match="waits for the device"), NoHost():
        torch.ones(1).item()
