"""An engine in a forked child: every call says what to do, none hangs, and the parent's engine is as it was."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import branchwise as bw
from branchwise.search import process

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork"),
    # Python itself warns of forks beside threads, from 3.12 on: that is what this is about.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
SECONDS = 60
QUESTION = "12+3*4-5=?"


@pytest.fixture(scope="module", params=["caller", "background"])
def engine(request: pytest.FixtureRequest) -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=256 << 20, max_tokens=100) as made:
        if request.param == "background":
            made.start()
        made.solve(QUESTION, n=4)
        yield made


def in_child(call: Callable[[], Any]) -> str:
    """What `call` ends with in a forked child: the error as text, or "done"."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            call()
            said = "done"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    end = time.monotonic() + SECONDS
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(read)
            pytest.fail(f"the child hung for {SECONDS} s")
        time.sleep(0.01)
    with os.fdopen(read) as pipe:
        return pipe.read()


def test_every_call_in_a_forked_child_says_what_to_do(engine: bw.Engine) -> None:
    tree = engine.open(QUESTION)
    (kid,) = tree.expand(tree.root)
    running = engine.solve_many([QUESTION] * 4, n=4, max_in_flight=2)
    next(running)
    ticket = engine.submit(QUESTION, n=4)
    calls: list[Callable[[], Any]] = [
        lambda: engine.solve(QUESTION),
        lambda: asyncio.run(engine.asolve(QUESTION)),
        lambda: engine.submit(QUESTION),
        lambda: list(engine.solve_many([QUESTION])),
        lambda: list(running),
        lambda: engine.open(QUESTION),
        lambda: asyncio.run(engine.aopen(QUESTION)),
        lambda: engine.expand_many([(tree, tree.root, 2)]),
        lambda: engine.cancel(ticket),
        lambda: engine.start(),
        lambda: engine.stop(),
        lambda: engine.close(),
        lambda: engine.policy,
        lambda: engine.judge,
        lambda: tree.expand(tree.root),
        lambda: tree.score([kid]),
        lambda: tree.prune(kid),
        lambda: tree.close(),
    ]
    if not ticket.done():  # else the child has its result
        calls.append(lambda: ticket.result(timeout=1))

    def every() -> None:
        for call in calls:
            with pytest.raises(bw.EngineStateError, match=rf"made in process {os.getppid()}.*'spawn'"):
                call()

    assert in_child(every) == "done"
    ticket.result()
    assert len(list(running)) == 3
    assert len(tree.expand(tree.root, 2)) == 2
    tree.close()
    assert engine.policy.kv.free_blocks == engine.policy.kv.n_blocks


def test_leaving_and_dropping_an_engine_in_a_child_is_silent() -> None:
    held: list[Any] = [bw.Engine(kv_memory=256 << 20, max_tokens=100)]
    held += [held[0].open(QUESTION), held[0].submit(QUESTION)]
    held[0].start()

    def leave() -> None:
        with held[0], held[1]:
            pass
        held.clear()
        gc.collect()

    assert in_child(leave) == "done"
    held[2].result()
    held[1].close()
    held[0].close()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_engine_made_in_a_child(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """It works unless threads have run before the fork."""
    monkeypatch.setattr(process, "_threaded", None)
    process.enter(threads)
    said = in_child(lambda: bw.Engine(kv_memory=256 << 20, threads=1).close() if threads == 1 else bw.Engine())
    assert said == "done" if threads == 1 else "forked from process" in said and "'spawn'" in said
