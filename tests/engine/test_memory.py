"""What fits into a device's memory, told before anything is loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from branchwise.api import Engine
from branchwise.assets import asset_path
from branchwise.backend.cpu.backend import CpuBackend
from branchwise.engine.kv import KvDemand
from branchwise.engine.memory import MIB, Home, check_memory, check_weights, parameter_count, plan_memory, resolve_dtype
from branchwise.errors import ConfigError, OutOfMemory
from branchwise.weights import open_checkpoint
from small_device import SmallDevice


@pytest.fixture(scope="module")
def pair():
    return [open_checkpoint(str(asset_path(name))) for name in ("policy-small", "prm")]


def home(backend, pair) -> list[Home]:
    """Both models on one device."""
    return [Home(backend, torch.float32, dict(zip(("policy", "PRM"), pair, strict=True)))]


def homes(pair, first: int, second: int) -> list[Home]:
    """A device for each, with so many free bytes."""
    rooms = SmallDevice(first, "cuda:0"), SmallDevice(second, "cuda:1")
    return [
        Home(room, torch.float32, {name: model})
        for room, name, model in zip(rooms, ("policy", "PRM"), pair, strict=True)
    ]


SEARCH = KvDemand(prompt=100, branches=16, paths=16, tokens=256, step_tokens=256, steps=10)


def test_the_split_adds_up(pair):
    free = 2048 * MIB
    (plan,) = plan_memory(home(SmallDevice(free), pair), SEARCH)
    assert list(plan.weights.values()) == [4 * parameter_count(each) for each in pair]
    assert sum(plan.weights.values()) + plan.kv <= free
    assert plan.problems >= 1


def test_more_memory_holds_more_problems(pair):
    few, many = (plan_memory(home(SmallDevice(size * MIB), pair), SEARCH)[0].problems for size in (700, 3000))
    assert many > few


def test_weights_that_do_not_fit(pair):
    said = r"the weights need \d+ \(policy\) \+ \d+ \(PRM\) MiB as float32, 1 MiB are free on cpu: .* weights='int8'"
    with pytest.raises(OutOfMemory, match=said):
        check_weights(home(SmallDevice(MIB), pair))


@pytest.mark.parametrize(("first", "second"), [(1, 1), (1, 4000), (4000, 1)])
def test_two_devices_of_which_one_is_too_small(pair, first, second):
    """The figures of both: the models may want to change places."""
    said = (
        rf"\(policy\) MiB as float32, {first:,} MiB are free on cuda:0; \d+ \(PRM\) MiB as float32, {second:,} MiB are"
    )
    with pytest.raises(OutOfMemory, match=f"{said} free on cuda:1: take smaller models"):
        check_weights(homes(pair, first * MIB, second * MIB))
    with pytest.raises(OutOfMemory, match=said):
        plan_memory(homes(pair, first * MIB, second * MIB), SEARCH)


def test_the_kv_of_two_devices(pair):
    found = homes(pair, 1000 * MIB, 600 * MIB)
    said = (
        r"kv_memory of 700 MiB does not fit: 9\d\d MiB are free on cuda:0 beside \d+ MiB of weights, 5\d\d MiB are free"
    )
    with pytest.raises(OutOfMemory, match=said):
        check_memory(found, "dense", 700 * MIB)
    check_memory(found, "dense", 400 * MIB)
    plans = plan_memory(found, SEARCH, kv_memory=400 * MIB)
    assert [list(plan.weights) for plan in plans] == [["policy"], ["PRM"]]
    assert all(plan.problems >= 1 for plan in plans)
    with pytest.raises(OutOfMemory, match=r"fit into 2 MiB on cuda:[01]: n=\d+ is the most"):
        plan_memory(found, SEARCH, kv_memory=2 * MIB)


@pytest.mark.parametrize("memory", [40 << 30, 1 << 70, (1900 << 20)])
def test_more_kv_than_the_device_has_free(pair, memory):
    device = SmallDevice(1900 * MIB)
    with pytest.raises(OutOfMemory, match=r"kv_memory of [\d,]+ MiB does not fit: 1,8\d\d MiB are free on cpu"):
        check_memory(home(device, pair), "dense", memory)
    check_memory(home(device, pair), "dense", 1800 * MIB)
    check_memory(home(device, pair), "dense", None)


def test_an_engine_with_more_kv_than_the_machine_has():
    with pytest.raises(OutOfMemory, match=r"kv_memory of 1,048,576,000 MiB does not fit"):
        Engine(kv_memory=1000 << 40)


def test_a_search_that_does_not_fit_names_the_largest_n(pair):
    def of(n):
        return replace(SEARCH, branches=n, paths=n)

    cpu = home(CpuBackend(), pair)
    with pytest.raises(OutOfMemory, match=r"n=\d+ is the most, or lower max_tokens") as error:
        plan_memory(cpu, of(5000), kv_memory=8 * MIB)
    most = int(str(error.value).split("n=")[2].split()[0])
    assert plan_memory(cpu, of(most), kv_memory=8 * MIB)[0].problems == 1
    with pytest.raises(OutOfMemory):
        plan_memory(cpu, of(most + 1), kv_memory=8 * MIB)


def test_small_models_are_bf16_on_a_gpu(pair):
    class Gpu(CpuBackend):
        device = torch.device("cuda", 0)

    assert resolve_dtype("auto", pair[0], Gpu()) == torch.bfloat16  # fp32 is slow there, and for tests


def test_a_dtype_that_the_device_lacks(pair):
    assert resolve_dtype("auto", pair[0], CpuBackend()) == torch.float32
    with pytest.raises(ConfigError, match="dtype='float16' cannot be computed on device 'cpu'"):
        resolve_dtype("float16", pair[0], CpuBackend())
