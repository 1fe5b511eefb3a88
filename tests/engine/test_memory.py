"""What fits into a device's memory, told before anything is loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from branchwise.api import Engine
from branchwise.assets import asset_path
from branchwise.backend.cpu.backend import CpuBackend
from branchwise.engine.kv import KvDemand
from branchwise.engine.memory import MIB, check_memory, check_weights, parameter_count, plan_memory, resolve_dtype
from branchwise.errors import ConfigError, OutOfMemory
from branchwise.weights import open_checkpoint


class SmallDevice(CpuBackend):
    """A device with so many free bytes."""

    def __init__(self, free: int) -> None:
        super().__init__()
        self.free = free

    def free_memory(self) -> int:
        return self.free

    def kv_budget(self) -> int:
        return self.free


@pytest.fixture(scope="module")
def pair():
    return [open_checkpoint(str(asset_path(name))) for name in ("policy-small", "prm")]


SEARCH = KvDemand(prompt=100, branches=16, paths=16, tokens=256, step_tokens=256, steps=10)


def test_the_split_adds_up(pair):
    free = 2048 * MIB
    plan = plan_memory(SmallDevice(free), pair, torch.float32, SEARCH)
    assert plan.weights == [4 * parameter_count(each) for each in pair]
    assert sum(plan.weights) + plan.kv <= free
    assert plan.problems >= 1


def test_more_memory_holds_more_problems(pair):
    few, many = (plan_memory(SmallDevice(size * MIB), pair, torch.float32, SEARCH).problems for size in (700, 3000))
    assert many > few


def test_weights_that_do_not_fit(pair):
    with pytest.raises(OutOfMemory, match=r"need .* MiB as float32, 1 MiB are free on cpu: .* weights='int8'"):
        check_weights(SmallDevice(MIB), pair, torch.float32)


@pytest.mark.parametrize("memory", [40 << 30, 1 << 70, (1900 << 20)])
def test_more_kv_than_the_device_has_free(pair, memory):
    device = SmallDevice(1900 * MIB)
    with pytest.raises(OutOfMemory, match=r"kv_memory of [\d,]+ MiB does not fit: .* 1,8\d\d MiB are free on cpu"):
        check_memory(device, pair, torch.float32, "dense", memory)
    check_memory(device, pair, torch.float32, "dense", 1800 * MIB)
    check_memory(device, pair, torch.float32, "dense", None)


def test_an_engine_with_more_kv_than_the_machine_has():
    with pytest.raises(OutOfMemory, match=r"kv_memory of 1,048,576,000 MiB does not fit"):
        Engine(kv_memory=1000 << 40)


def test_a_search_that_does_not_fit_names_the_largest_n(pair):
    def of(n):
        return replace(SEARCH, branches=n, paths=n)

    with pytest.raises(OutOfMemory, match=r"n=\d+ is the most, or lower max_tokens") as error:
        plan_memory(CpuBackend(), pair, torch.float32, of(5000), kv_memory=8 * MIB)
    most = int(str(error.value).split("n=")[2].split()[0])
    assert plan_memory(CpuBackend(), pair, torch.float32, of(most), kv_memory=8 * MIB).problems == 1
    with pytest.raises(OutOfMemory):
        plan_memory(CpuBackend(), pair, torch.float32, of(most + 1), kv_memory=8 * MIB)


def test_small_models_are_bf16_on_a_gpu(pair):
    class Gpu(CpuBackend):
        device = torch.device("cuda", 0)

    assert resolve_dtype("auto", pair[0], Gpu()) == torch.bfloat16  # fp32 is slow there, and for tests


def test_a_dtype_that_the_device_lacks(pair):
    assert resolve_dtype("auto", pair[0], CpuBackend()) == torch.float32
    with pytest.raises(ConfigError, match="dtype='float16' cannot be computed on device 'cpu'"):
        resolve_dtype("float16", pair[0], CpuBackend())
