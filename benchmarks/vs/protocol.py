"""How two sides are measured in one run: each is a server that reads and writes JSON lines, and they take turns.

This file and `workloads.py`, `levels.py` need the standard library only: they also run in the environments of rivals.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]
Json = dict[str, Any]


class SideError(RuntimeError):
    """A side died or reported an error; the text holds what it said last."""


def serve(make: Callable[..., Any]) -> None:
    """Answer requests from stdin until it ends: "open" calls `make`, every other op a method of what it returned.

    Libraries print; so stdout moves to a descriptor of our own, and what they print goes to stderr.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    server: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        op = request.pop("op")
        try:
            if op == "open":
                server = make(**request)
                reply = server.about()
            else:
                reply = getattr(server, op)(**request)
            reply["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        except Exception:  # whatever a rival raises is the asker's to show: `ask` raises it as a SideError
            reply = {"error": traceback.format_exc()}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


class Side:
    """One side of a comparison: a server process, started on construction and asked one thing at a time.

    module: `python -m` name of a file that calls `serve`    options: arguments of its "open"
    Raises SideError when it cannot start.
    """

    def __init__(
        self, name: str, python: Path, module: str, log: Path, env: Mapping[str, str], options: Mapping[str, Any]
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [str(python), "-m", module],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **env},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        try:
            self.about = self.ask("open", **options)
        except BaseException:
            self.close()
            raise

    def ask(self, op: str, **arguments: Any) -> Json:
        """Send one request and wait for its reply. Raises SideError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        reply: Json = json.loads(line) if line else {"error": f"it ended with {self._process.wait()}: {tail(self.log)}"}
        if "error" in reply:
            raise SideError(f"{self.name}, {op}: {reply['error']}\n(its output: {self.log})")
        return reply

    def close(self) -> None:
        """End the process."""
        with self._process:  # closes its pipes and waits for it
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._process.kill()


def tail(path: Path, lines: int = 12) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


class TimedLock:
    """An exclusive lock on a file while something is timed, for machines that several people use; no path: no lock.

    Used as a context manager around every request. It is kept from one to the next, so that a comparison meets one
    state of the machine, but given back after `slice_s` seconds, so that others get their turn.
    """

    def __init__(self, path: Path | None = None, slice_s: float = 150.0) -> None:
        self.path, self.slice_s = path, slice_s
        self._file: TextIO | None = None
        self._since = 0.0

    def __enter__(self) -> None:
        if self.path is not None and self._file is None:
            self._file = self.path.open("a")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        if self._file is not None and time.monotonic() - self._since > self.slice_s:
            self.release()
            time.sleep(1)  # those who wait come first

    def release(self) -> None:
        """Give it back now."""
        if self._file is not None:
            self._file.close()
            self._file = None


def alternate(
    sides: Sequence[Side], op: str, runs: int, arguments: Callable[[Side, int], Json], lock: TimedLock
) -> Iterator[tuple[Side, int, Json]]:
    """Ask all sides in turn, `runs` times after one round to warm up (run -1), and yield (side, run, reply)."""
    for run in range(-1, runs):
        for side in sides:
            with lock:
                reply = side.ask(op, **arguments(side, run))
            yield side, run, reply
