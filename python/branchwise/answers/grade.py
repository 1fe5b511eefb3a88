"""Is an answer right? Canonical equality first, then math-verify in a process that a hard time limit can kill."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

from branchwise.answers.canonical import MAX_LENGTH, canonical
from branchwise.errors import ConfigError

STARTUP_SECONDS = 120.0  # importing sympy on a busy machine; not part of the limit for an answer

_log = logging.getLogger(__name__)


class Grader:
    """Compares answers with gold answers; callable, usable from any thread, a context manager.

    The worker process starts with the first pair that canonical forms cannot settle, serves all later ones, is killed
    and replaced when a pair takes longer than `seconds` (the answer is then wrong, and `timeouts` counts it), and ends
    with `close()`, with the object, or with the interpreter. Raises ConfigError for a limit that is not positive and
    where math-verify cannot be imported.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        if not seconds > 0:
            raise ConfigError(f"the time limit of a grader is {seconds} seconds: give a positive number")
        self.seconds = seconds
        self.timeouts = 0
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[str] | None = None
        self._end_worker: weakref.finalize[Any, Any] | None = None

    def grade(self, answer: str | None, gold: str) -> bool:
        """Return True when `answer` equals `gold`. No answer, an over-long one and a timeout are all wrong."""
        if answer is None or max(len(answer), len(gold)) > MAX_LENGTH:
            return answer is not None and answer.strip() == gold.strip()
        ours, theirs = canonical(answer), canonical(gold)
        if ours == theirs:
            return bool(theirs)
        # Words are no algebra: letter by letter, "east" times anything would equal "seat".
        if _settled(ours) or _settled(theirs):
            return False
        with self._lock:
            return self._ask(answer, gold)

    __call__ = grade

    def close(self) -> None:
        """End the worker process; the next use starts another."""
        with self._lock:
            self._stop()

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, answer: str, gold: str) -> bool:
        if self._worker is None or self._worker.poll() is not None:
            self._start()
        reply = self._exchange([answer, gold], self.seconds)
        if reply is None:
            self.timeouts += 1
            _log.warning("grading %r against %r did not end within %g s: counted as wrong", answer, gold, self.seconds)
            self._stop()
            return False
        return bool(reply["equal"])

    def _start(self) -> None:
        self._stop()
        script = Path(__file__).with_name("worker.py")
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        worker = subprocess.Popen([sys.executable, str(script)], stdin=pipe, stdout=pipe, stderr=null, text=True)
        self._worker, self._end_worker = worker, weakref.finalize(self, _end, worker)
        reply = self._exchange({"path": sys.path, "seconds": self.seconds}, STARTUP_SECONDS)
        if reply is None or "error" in reply:
            self._stop()
            reason = reply["error"] if reply else "it ended or gave no sign of life"
            raise ConfigError(f"the grading process did not start: {reason}; is math-verify installed?")

    def _stop(self) -> None:
        if self._end_worker is not None:
            self._end_worker()
        self._worker = self._end_worker = None

    def _exchange(self, message: object, seconds: float) -> dict[str, Any] | None:
        """Send one line and wait for one; None when the worker ended, or was killed because the time was over."""
        worker = self._worker
        assert worker is not None
        assert worker.stdin is not None
        assert worker.stdout is not None
        # A timer that kills works from any thread and inside any C call, which no signal handler does.
        timer = threading.Timer(seconds, worker.kill)
        timer.daemon = True
        timer.start()
        try:
            worker.stdin.write(json.dumps(message) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except BrokenPipeError:
            return None
        except BaseException:
            self._stop()  # interrupted between question and reply: the next question would get the wrong one
            raise
        finally:
            timer.cancel()
        return json.loads(line) if line.endswith("\n") else None


def grade(answer: str | None, gold: str) -> bool:
    """Grade a single pair, with a worker process of its own if one is needed; use a `Grader` for many."""
    with Grader() as grader:
        return grader.grade(answer, gold)


def _settled(form: str) -> bool:
    """True for forms that nothing else can equal: words, and no text at all."""
    return not form or (len(form) > 2 and form.isalpha())


def _end(worker: subprocess.Popen[str]) -> None:
    worker.kill()
    worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:  # a line that was never read
                continue
