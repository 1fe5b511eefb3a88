"""Is an answer right? Canonical equality first, then math-verify in a process that a hard time limit can kill."""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType

from branchwise.answers.canonical import MAX_LENGTH, canonical
from branchwise.errors import ConfigError
from branchwise.workers.host import Worker, WorkerFailure

MEMORY_BYTES = 2 << 30  # towers of powers fill memory as fast as they fill time

_log = logging.getLogger(__name__)


class Grader:
    """Compares answers with gold answers; callable, usable from any thread, a context manager.

    The worker process starts with the first pair that canonical forms cannot settle, serves all later ones, is killed
    and replaced when a pair takes longer than `seconds` or more memory than it may (the answer is then wrong, and
    `timeouts` counts it), and ends with `close()`, with the object, or with the interpreter. Raises ConfigError for a
    limit that is not positive and where math-verify cannot be imported.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        if not seconds > 0:
            raise ConfigError(f"the time limit of a grader is {seconds} seconds: give a positive number")
        self.timeouts = 0
        task = Path(__file__).with_name("worker.py")
        self.worker = Worker(task, "math-verify", seconds=seconds, memory=MEMORY_BYTES)

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
        try:
            return bool(self.worker.ask([answer, gold]))
        except WorkerFailure as failure:
            self.timeouts += 1
            _log.warning("grading %r against %r failed (%s): counted as wrong", answer, gold, failure)
            return False

    __call__ = grade

    def close(self) -> None:
        """End the worker process; the next use starts another."""
        self.worker.close()

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def grade(answer: str | None, gold: str) -> bool:
    """Grade a single pair, with a worker process of its own if one is needed; use a `Grader` for many."""
    with Grader() as grader:
        return grader.grade(answer, gold)


def _settled(form: str) -> bool:
    """True for forms that nothing else can equal: words, and no text at all."""
    return not form or (len(form) > 2 and form.isalpha())
