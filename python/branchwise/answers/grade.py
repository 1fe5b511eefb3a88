"""Is an answer right? By its form where that settles it, else by math-verify in a process under a time limit."""

from __future__ import annotations

import logging
import re
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from branchwise.answers.compare import Question, compare
from branchwise.answers.extract import extract_answer
from branchwise.answers.reading import MAX_LENGTH, read
from branchwise.errors import ConfigError
from branchwise.workers.host import Worker, WorkerFailure

MEMORY_BYTES = 2 << 30  # towers of powers fill memory as fast as they fill time
_SHARE = 0.9  # of the limit that algebra gets; the rest is for the way there and back
_GRACE_SECONDS = 2.0  # after the limit, for the process to say that the time is over

_SOLUTION = re.compile(
    r"\\(?:boxed|fbox)(?![a-zA-Z])|^[ \t]{0,8}####|\banswer(?:\*\*)?\s{0,8}(?:is\b|:)|</?answer>|</think", re.I | re.M
)

_log = logging.getLogger(__name__)


class Grader:
    """Compares answers with gold answers; callable, usable from any thread, a context manager.

    The worker process starts with the first pair that forms cannot settle, which waits for it, serves all later ones,
    and ends with `close()`, with the object, or with the interpreter. A pair that takes longer than `seconds`, or more
    memory than it may, is wrong, and `timeouts` counts it. Where math-verify does not start, forms alone are compared,
    which is logged once. Raises ConfigError for a limit that is not positive.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        if not seconds > 0:
            raise ConfigError(f"the time limit of a grader is {seconds} seconds: give a positive number")
        self.seconds = seconds
        self.timeouts = 0
        task = Path(__file__).with_name("worker.py")
        self.worker = Worker(task, "math-verify", seconds=seconds + _GRACE_SECONDS, memory=MEMORY_BYTES)
        self._lock = threading.Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._algebra = True

    def grade(self, answer: str | None, gold: str) -> bool:
        """Return True when `answer` equals `gold`, each the answer alone or a solution that states it.

        No answer, one that is only delimiters, an over-long one and a timeout are all wrong.
        """
        settled = _settle(answer, gold)
        return settled if isinstance(settled, bool) else self._ask(settled, answer, gold)

    __call__ = grade

    def submit(self, answer: str | None, gold: str) -> Future[bool]:
        """As `grade`, without waiting: what takes algebra is done in a thread of the grader, one after the other."""
        settled = _settle(answer, gold)
        if not isinstance(settled, bool):
            with self._lock:
                self._thread = self._thread or ThreadPoolExecutor(1, "branchwise-grader")
                return self._thread.submit(self._ask, settled, answer, gold)
        future: Future[bool] = Future()
        future.set_result(settled)
        return future

    def close(self) -> None:
        """End the worker process; the next use starts another. What was submitted and has not begun is cancelled."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=True, cancel_futures=True)
        self.worker.close()

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, question: Question, answer: str | None, gold: str) -> bool:
        if not self._algebra:
            return False
        try:
            equal = self.worker.ask({"question": question, "seconds": _SHARE * self.seconds})
        except WorkerFailure:
            equal = None
        except ConfigError as error:
            self._algebra = False
            _log.warning("answers are compared by their form alone, without algebra: %s", error)
            return False
        if equal is None:
            self.timeouts += 1
            _log.warning("grading %r against %r took more than %g s or its memory: wrong", answer, gold, self.seconds)
        return bool(equal)


def grade(answer: str | None, gold: str) -> bool:
    """Grade a single pair, with a worker process of its own if one is needed; use a `Grader` for many."""
    with Grader() as grader:
        return grader.grade(answer, gold)


def _settle(answer: str | None, gold: str) -> bool | Question:
    """What the forms say: True, False, or the question for algebra."""
    if answer is None:
        return False
    answer, gold = _stated(answer), _stated(gold)
    if max(len(answer), len(gold)) > MAX_LENGTH:
        return answer == gold
    return compare(read(answer), read(gold))


def _stated(text: str) -> str:
    """The answer of a whole solution; any other text is the answer itself."""
    text = text.strip()
    return (extract_answer(text) or text) if _SOLUTION.search(text) else text
