"""A device that is full: a clear error for those it hits, nothing left behind, and the next search as ever."""

from __future__ import annotations

import re

import pytest
import torch

import twins
from branchwise.api import Engine
from branchwise.backend.cpu.backend import CpuBackend, CpuPrmHead
from branchwise.backend.device import short_of_memory
from branchwise.backend.gpu.loop import TritonLoop
from branchwise.backend.gpu.sampler import TritonSampler
from branchwise.errors import OutOfMemory
from branchwise.search.service import Service
from branchwise.types import Settings
from full_device import Full, breaks, clean, fail, failing, searched, tiny_pair, told

ALWAYS = 1 << 40
LOWER = r"2,560 MiB more are needed on cpu, [\d,]+ MiB are free: lower kv_memory, max_rows or prefill_rows, take a"


@pytest.fixture
def gpu(monkeypatch):
    """The GPU's backend, in plain torch."""
    twins.install(monkeypatch)
    return twins.TwinBackend()


def check_points(backend, times: int, first: int, step: int) -> None:
    """Searches that find the device full at some allocation, and at `times` of them all in all."""
    service = Service(tiny_pair(backend))
    found = told(searched(service))
    with Full(ALWAYS, 0) as counted:
        searched(service)
    for after in range(first, counted.count, step):
        with Full(after, times):
            (result,) = searched(service)
        if backend.burst > 1 and times == 1:  # recordings were let go of, and that was enough
            assert told([result]) == found, after
        else:
            assert isinstance(result.error, OutOfMemory), after
            assert re.match(LOWER, str(result.error))
        clean(service.pair)
        assert told(searched(service)) == found, after


@pytest.mark.parametrize("times", [1, ALWAYS])
def test_some_allocation_on_the_cpu(times):
    check_points(CpuBackend(), times, first=0, step=7)


@pytest.mark.parametrize("times", [1, ALWAYS])
def test_some_allocation_on_a_gpu(gpu, times):
    check_points(gpu, times, first=5, step=43)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, ALWAYS])
def test_every_allocation_on_a_gpu(gpu, times):
    check_points(gpu, times, first=0, step=1)


POINTS = {
    "a plan": (twins.TwinBackend, "upload"),
    "a pass": (twins.TwinBackend, "rope_store"),
    "a loop's buffers": (TritonSampler, "draw_tensors"),
    "a recording": (twins.TwinBackend, "graph"),
    "a burst": (TritonLoop, "start"),
    "a burst's results": (twins.TwinBackend, "download"),
    "a draw": (TritonSampler, "draw"),
}


@pytest.mark.parametrize("point", list(POINTS))
def test_it_ends_one_search_and_the_other_goes_on(gpu, point, monkeypatch):
    """Both tries fail at that point."""
    owner, name = POINTS[point]
    service = Service(tiny_pair(gpu))
    found = told(searched(service, problems=2))
    service.pair.policy.loop.let_go()  # so that one is recorded anew
    monkeypatch.setattr(owner, name, failing(getattr(owner, name), 0, 2))
    results = searched(service, problems=2)
    assert sum(isinstance(each.error, OutOfMemory) for each in results) == 1
    check_the_others(results, found)
    clean(service.pair)
    assert told(searched(service, problems=2)) == found


def check_the_others(results, found) -> None:
    for result, right in zip(results, found, strict=True):
        assert result.error is not None or told([result]) == [right]


def test_no_half_recorded_loop_is_kept(gpu, monkeypatch):
    service = Service(tiny_pair(gpu))
    monkeypatch.setattr(twins.TwinBackend, "graph", failing(twins.TwinBackend.graph, 0, ALWAYS))
    (result,) = searched(service)
    assert isinstance(result.error, OutOfMemory)
    assert not service.pair.policy.loop._loops
    assert not any(scratch._flat for scratch in gpu._scratches.values())


@pytest.mark.parametrize("begin", range(4))
def test_a_pass_of_the_prm_that_fails_loses_no_step(begin, monkeypatch):
    """What the policy finished in the same turn, and earlier passes of it scored, is reported all the same."""
    service = Service(tiny_pair(CpuBackend()))
    found = told(searched(service, problems=3))
    monkeypatch.setattr(CpuPrmHead, "__call__", failing(CpuPrmHead.__call__, begin, 1))
    results = searched(service, problems=3)
    assert sum(isinstance(each.error, OutOfMemory) for each in results) == 1
    check_the_others(results, found)
    clean(service.pair)
    assert told(searched(service, problems=3)) == found


def test_a_burst_that_breaks_ends_every_search(gpu, monkeypatch):
    service = Service(tiny_pair(gpu))
    found = told(searched(service, problems=2))
    with monkeypatch.context() as patch:
        patch.setattr(TritonLoop, "finish", failing(TritonLoop.finish, 0, 1, breaks))
        with pytest.raises(RuntimeError, match="illegal memory access"):
            searched(service, problems=2)
    clean(service.pair)
    assert told(searched(service, problems=2)) == found


def test_a_tree_is_closed_though_its_burst_breaks(gpu, monkeypatch):
    pair = tiny_pair(gpu)
    policy, settings = pair.policy, Settings()
    tree = policy.open([1, 2, 3], lineage=1, branches=2, paths=2, steps=2, settings=settings)
    policy.expand(tree, tree.root, 2, settings.step())
    policy.poll()
    policy.begin()
    monkeypatch.setattr(TritonLoop, "finish", breaks)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        policy.close(tree)
    clean(pair)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("linear", r"take a smaller model, or a device with more room \(device, prm_device\), for .*policy-small"),
        ("embedding", "take a smaller model"),
        ("prm_head", r"take a smaller model, or a device with more room \(device, prm_device\), for .*prm"),
        ("kv_pool", "lower kv_memory, which is 64 MiB"),
        ("sampler", "lower kv_memory, max_rows"),
        ("replayed", "lower kv_memory, max_rows"),
    ],
)
def test_models_and_kv_that_find_no_room(name, said, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(CpuBackend, name, staticmethod(failing(getattr(CpuBackend, name), 0, ALWAYS)))
        with pytest.raises(OutOfMemory, match=rf"2,560 MiB more are needed on cpu, [\d,]+ MiB are free: {said}"):
            Engine(kv_memory=64 << 20)
    Engine(kv_memory=64 << 20).close()


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (torch.OutOfMemoryError("Tried to allocate 2.00 MiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("out of resource: shared memory, Required: 300000, Hardware limit: 232448"), False),
    ],
)
def test_what_a_want_of_memory_looks_like(error, short):
    assert short_of_memory(error) is short


def test_a_recording_that_ends_badly_for_want_of_memory():
    """torch ends the recording, too, and that fails in its own way."""
    with pytest.raises(RuntimeError, match="previous error") as failed:  # noqa: PT012
        try:
            fail()
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
    assert short_of_memory(failed.value)
