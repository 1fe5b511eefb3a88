"""Engines that are made, used in many ways and let go of: nothing of them may stay on the device."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from benchmarks.gpu.trace import LiveTensors
from branchwise import assemble
from branchwise.api import Engine
from branchwise.backend.gpu.backend import TritonBackend
from branchwise.types import Result
from full_device import breaks

QUESTION = "1+2*3=?"
BEAM: dict[str, Any] = {"strategy": "beam", "n": 2, "expand": 2}


def search(engine: Engine, patch: pytest.MonkeyPatch) -> list[Result]:
    """A search with a PRM."""
    return [engine.solve(QUESTION, **BEAM)]


def several_loops(engine: Engine, patch: pytest.MonkeyPatch) -> list[Result]:
    """Bursts of three kinds, each recorded."""
    kinds: list[dict[str, Any]] = [{}, {"top_p": 0.9}, {"top_p": 0.9, "presence_penalty": 0.5}]
    results = [engine.solve(QUESTION, "majority", n=2, **kind) for kind in kinds]
    assert engine.policy.loop is not None
    assert len(engine.policy.loop._loops) == len(kinds)
    return results


def cancelled(engine: Engine, patch: pytest.MonkeyPatch) -> list[Result]:
    """A search that is given up while a burst is under way."""
    ticket = engine.submit(QUESTION, **BEAM)
    while engine.policy._flying is None:
        engine._service.step()
        engine.policy.begin()
    assert ticket.cancel()
    return []


def failed(engine: Engine, patch: pytest.MonkeyPatch) -> list[Result]:
    """Problems that fail, whose results are kept."""
    results = list(engine.solve_many([QUESTION, "", QUESTION * 500], **BEAM))
    assert sum(each.error is not None for each in results) == 2
    return results


def broken(engine: Engine, patch: pytest.MonkeyPatch) -> list[Result]:
    """A burst that breaks, after a search that went well, and takes its own search with it."""
    engine.solve(QUESTION, **BEAM)
    assert engine.policy.loop is not None
    kind = type(next(iter(engine.policy.loop._loops.values())))
    with patch.context() as patched:
        patched.setattr(kind, "finish", breaks)
        with suppress(RuntimeError):
            engine.solve(QUESTION, **BEAM)
            raise AssertionError("nothing broke")
    return []


USES = (search, several_loops, cancelled, failed, broken)


def check_lives(make: Callable[[], TritonBackend], closed: bool, dtype: str, patch: pytest.MonkeyPatch) -> None:
    """Five engines in turn, one for each use, are closed or only let go of."""
    patch.setattr(assemble, "open_backend", lambda device: make())

    def engine() -> Engine:
        return Engine(dtype=dtype, kv_memory=16 << 20, max_tokens=6, max_step_tokens=3, delimiter="#")

    with LiveTensors():
        engine().close()  # what torch keeps of its first use
    gc.collect()
    gc.disable()
    try:
        for use in USES:
            with LiveTensors() as tensors:
                used = engine()
                kept = use(used, patch)
                assert tensors.held() > 50
                gone = [weakref.ref(each) for each in on_device(used)]
                if closed:
                    used.close()
                else:
                    del used
            if use is broken and not closed:
                gc.collect()  # the error saw the search, which knows its error
            assert [each() for each in gone] == [None] * len(gone), use.__name__
            assert tensors.held() == 0, use.__name__
            del kept
    finally:
        gc.enable()


def on_device(engine: Engine) -> list[object]:
    """Models, KV, recorded loops and what they share."""
    policy, judge = engine.policy, engine.judge
    assert judge is not None
    assert policy.loop is not None
    loops = policy.loop._loops.values()
    assert loops
    backend: Any = policy.model.backend
    shared = backend._scratches.values()
    return [policy, judge, policy.loop, policy.model.rope, policy.kv, judge.kv, backend, *shared, *loops]
