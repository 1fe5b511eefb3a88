"""Worker processes: limits hold, failures are told apart, and no process outlives whoever asked."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from branchwise.errors import ConfigError
from branchwise.workers.host import Worker, WorkerFailure

TASK = """\
import os, sys, time

def answer(request):
    kind, value = request
    if kind == "echo":
        print("noise")
        return value
    if kind == "sleep":
        time.sleep(value)
    if kind == "fill":
        return len("x" * value)
    if kind == "power":
        return len(str(9 ** 9 ** 9 ** value))
    if kind == "exit":
        os._exit(value)
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "echo.py"
    path.write_text(TASK)
    return path


@pytest.fixture
def worker(task: Path) -> Iterator[Worker]:
    worker = Worker(task, "python", seconds=2.0, memory=1 << 28)
    yield worker
    worker.close()


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_answers_in_one_process(worker: Worker) -> None:
    assert worker.pid is None
    for value in ("text", "é\n\ud800\0", {"a": [1, None]}, "x" * 3_000_000):
        assert worker.ask(["echo", value]) == value
    first = worker.pid
    assert worker.ask(["echo", 1]) == 1
    assert worker.pid == first


@pytest.mark.parametrize(
    ("request_", "reason"),
    [(["sleep", 60], "time"), (["power", 9], "time"), (["fill", 10**9], "memory"), (["exit", 3], "died")],
)
def test_failures_are_told_apart_and_the_next_request_works(worker: Worker, request_: Any, reason: str) -> None:
    begin = time.perf_counter()
    with pytest.raises(WorkerFailure, match=reason):
        worker.ask(request_)
    assert time.perf_counter() - begin < 30.0
    assert worker.ask(["echo", 5]) == 5


def test_a_process_killed_between_requests_is_replaced(worker: Worker) -> None:
    worker.ask(["echo", 1])
    first = worker.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert worker.ask(["echo", 2]) == 2
    assert worker.pid != first


def test_a_warm_process_serves_the_first_request(worker: Worker) -> None:
    worker.warm()
    first = worker.pid
    assert first is not None
    worker.warm()
    assert worker.ask(["echo", 1]) == 1
    assert worker.pid == first
    worker.warm()
    assert worker.pid == first


def test_interrupt_is_for_the_host(worker: Worker) -> None:
    worker.ask(["echo", 1])
    first = worker.pid
    assert first is not None
    os.kill(first, signal.SIGINT)
    assert worker.ask(["echo", 2]) == 2
    assert worker.pid == first


def test_threads_get_their_own_answers(worker: Worker) -> None:
    replies: list[bool] = []

    def ask(index: int) -> None:
        replies.extend(worker.ask(["echo", [index, i]]) == [index, i] for i in range(20))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [True] * 80


def test_ends_with_close_and_with_its_object(task: Path) -> None:
    worker = Worker(task, "python", seconds=5.0, memory=1 << 28)
    pids = []
    for _ in range(2):
        worker.ask(["echo", 1])
        pids.append(worker.pid or 0)
        worker.close()
        assert not is_alive(pids[-1])
    worker.ask(["echo", 1])
    pid = worker.pid or 0
    assert is_alive(pid)
    del worker
    gc.collect()
    assert not is_alive(pid)


@pytest.mark.parametrize("ending", ["pass", "os.kill(os.getpid(), 9)"])
def test_ends_with_the_interpreter(task: Path, ending: str) -> None:
    program = (
        "import os; from pathlib import Path; from branchwise.workers.host import Worker\n"
        f"w = Worker(Path({str(task)!r}), 'python', seconds=5.0, memory=1 << 28); w.ask(['echo', 1])\n"
        f"print(w.pid, flush=True)\n{ending}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    deadline = time.monotonic() + 10.0
    while is_alive(int(done.stdout)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(int(done.stdout))


def test_a_forked_child_leaves_the_process_of_its_parent_alone(worker: Worker) -> None:
    worker.ask(["echo", 1])
    with warnings.catch_warnings():  # newer interpreters warn of threads, which are idle here
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        good = worker.ask(["echo", 2]) == 2
        worker.close()
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    first = worker.pid
    assert worker.ask(["echo", 3]) == 3
    assert worker.pid == first


def test_a_task_that_cannot_be_imported_is_said(tmp_path: Path) -> None:
    path = tmp_path / "lame.py"
    path.write_text("import no_such_module\n")
    with pytest.raises(ConfigError, match=r"process for lame did not start: No module .* is nosuch installed"):
        Worker(path, "nosuch", seconds=1.0, memory=1 << 28).ask(1)
