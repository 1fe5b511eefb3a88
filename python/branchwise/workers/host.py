"""The side of a worker process that asks: starts it, waits for it no longer than its limit, and ends it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

from branchwise.errors import ConfigError

STARTUP_SECONDS = 120.0  # imports on a busy machine; not part of the limit for a request


class WorkerFailure(Exception):
    """A request got no answer: "time" was over, "memory" did not do, or the process "died"."""


class Worker:
    """One process that answers requests, one at a time, from any thread.

    task     Python file with a function `answer(request)`, JSON in and JSON out
    setup    what its function `prepare(setup)` is given when the process starts, where it has one
    package  what the file imports, for the message when that is missing
    seconds  of a request at most; then the process is killed, and the next request starts another
    memory   bytes of address space at most

    It starts with the first request and ends with `close()`, with this object, or with the interpreter.
    """

    def __init__(self, task: Path, package: str, *, seconds: float, memory: int, setup: object = None) -> None:
        self.task = task
        self.setup = setup
        self.package = package
        self.seconds = seconds
        self.memory = memory
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._ready = False  # it has imported its task
        self._owner = 0  # a forked child has the pipes of its parent's worker, and must leave them alone
        self._end: weakref.finalize[Any, Any] | None = None

    def ask(self, request: object) -> Any:
        """The answer to a request. WorkerFailure when there is none, ConfigError when the process does not start."""
        with self._lock:
            self._spawn()
            fresh = not self._ready
            if fresh:
                self._await_ready()
            try:
                reply = self._exchange(request, self.seconds)
            except WorkerFailure as failure:
                if fresh or str(failure) != "died":
                    raise
                self._spawn()  # it may have been dead before the request came
                self._await_ready()
                reply = self._exchange(request, self.seconds)
        if "error" in reply:
            raise WorkerFailure(reply["error"])
        return reply["answer"]

    def warm(self) -> None:
        """Start the process without waiting for it; where it cannot start, the first request says so."""
        with self._lock, contextlib.suppress(ConfigError):
            self._spawn()

    @property
    def pid(self) -> int | None:
        """Of the process, None while there is none."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the process; the next request starts another."""
        with self._lock:
            self._stop()

    def _spawn(self) -> None:
        """Start the process unless it runs, and tell it what it needs."""
        if self._process is not None and self._owner == os.getpid():
            return
        self._stop()
        command = [sys.executable, str(Path(__file__).with_name("serve.py"))]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        try:
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, text=True, encoding="ascii")
        except OSError as error:
            raise ConfigError(f"the process for {self.task.stem} did not start ({command[0]}: {error})") from None
        self._process, self._owner, self._ready = process, os.getpid(), False
        self._end = weakref.finalize(self, _end, process, os.getpid())
        try:
            task = {"path": sys.path, "task": str(self.task), "setup": self.setup}
            self._send({**task, "seconds": self.seconds, "memory": self.memory})
        except BaseException:
            self._stop()
            raise

    def _await_ready(self) -> None:
        try:
            reply = self._exchange(None, STARTUP_SECONDS)
        except WorkerFailure as failure:
            reply = {"error": f"it gave no sign of life ({failure})"}
        if "error" in reply:
            self._stop()
            raise ConfigError(
                f"the process for {self.task.stem} did not start: {reply['error']}; is {self.package} installed?"
            )
        self._ready = True

    def _stop(self) -> None:
        if self._end is not None:
            self._end()
        self._process = self._end = None

    def _send(self, message: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead: there will be no reply
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _exchange(self, message: object, seconds: float) -> dict[str, Any]:
        """Send a line, unless it is None, and wait for one. WorkerFailure when none comes."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        over = threading.Event()

        def kill() -> None:
            over.set()
            process.kill()

        # A timer that kills works from any thread and inside any C call, which no signal handler does.
        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            if message is not None:
                self._send(message)
            line = process.stdout.readline()
        except BaseException:
            self._stop()  # interrupted between question and reply: the next question would get the wrong one
            raise
        finally:
            timer.cancel()
        if not line.endswith("\n"):
            self._stop()
            raise WorkerFailure("time" if over.is_set() else "died")
        reply: dict[str, Any] = json.loads(line)
        return reply


def _end(process: subprocess.Popen[str], owner: int) -> None:
    if owner != os.getpid():
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:  # a line that was never read
                continue
