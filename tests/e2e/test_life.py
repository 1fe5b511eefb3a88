"""An engine that nobody holds is gone at once: no reference cycle keeps its models, KV or threads."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

import branchwise as bw

SLACK_BYTES = 48 << 20  # what ten engines may leave: allocator and tokenizer caches, not a KV pool of one
PAGE_BYTES = 4096


@pytest.fixture(autouse=True)
def by_reference_counts_alone() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def used(engine: bw.Engine, *, background: bool) -> list[weakref.ref[object]]:
    """Search, grow a tree by hand, score, fail and cancel; references to all that must go with the engine."""
    if background:
        asyncio.run(_search(engine))
    engine.solve("1+2*3=?", "beam", n=4)
    list(engine.solve_many(["2+2=?", "3*3-1=?"], "majority", n=2))
    engine.submit("1+2*3=?", "best_of_n", n=4).cancel()
    tree = engine.open("2*3+1=?", branches=2)
    tree.expand(tree.root, 2, score=True)
    service = engine._service
    return [weakref.ref(each) for each in (engine, service, engine.pair, engine.policy, engine.judge, tree)]


async def _search(engine: bw.Engine) -> None:
    await asyncio.gather(*(engine.asolve(f"{i}+2*3=?", "beam", n=4) for i in range(3)))


def wait_for_thread() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("branchwise"):
            thread.join(30)
            assert not thread.is_alive()


@pytest.mark.parametrize("background", [False, True], ids=["caller", "background"])
@pytest.mark.parametrize("close", [False, True], ids=["dropped", "closed"])
def test_nothing_keeps_an_engine(close: bool, background: bool) -> None:
    engine = bw.Engine(kv_memory=64 << 20, max_tokens=100)
    left = used(engine, background=background)
    if close:
        engine.close()
        assert [each for each in threading.enumerate() if each.name.startswith("branchwise")] == []
    del engine
    wait_for_thread()
    assert [each() for each in left] == [None] * len(left)


def test_close_frees_models_that_somebody_holds() -> None:
    engine = bw.Engine(kv_memory=64 << 20, max_tokens=100)
    policy, judge = weakref.ref(engine.policy), weakref.ref(engine.judge)
    engine.close()
    assert policy() is None
    assert judge() is None


def test_ten_engines_in_turn_take_the_memory_of_one() -> None:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("the kernel does not report memory here")
    resident = []
    for _ in range(10):
        engine = bw.Engine(kv_memory=128 << 20, max_tokens=300)
        pool = engine.policy.kv.pool
        pool.fill_(1)  # KV is taken from the system when it is first written
        engine.solve("12+3*4-5=?", "beam", n=8)
        del pool
        engine.close()
        resident.append(int(statm.read_text().split()[1]) * PAGE_BYTES)
    assert resident[-1] - resident[0] < SLACK_BYTES
