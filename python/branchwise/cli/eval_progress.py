"""The progress of `eval`: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from branchwise.cli.output import make_console, say
from branchwise.report import numbers
from branchwise.search.protocol import Progress as SearchProgress

if TYPE_CHECKING:
    from branchwise.report.record import Record

_LINE_SECONDS = 30.0  # between two lines where there is no terminal


class EvalProgress:
    """Shows count, rate, time left and running accuracy on stderr. The rate counts what was searched in this run.

    done, total: results, over all cells
    """

    def __init__(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        self._begun = self._line_at = time.monotonic()
        self._tokens = self._searched = self._failed = 0
        self._cell, self._right, self._graded = "", 0, 0
        self._console = make_console(stderr=True)
        columns = (SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task(self._words(), total=total, completed=done)

    def __enter__(self) -> EvalProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, cell: str) -> None:
        """What follows is of another cell."""
        self._cell, self._right, self._graded = cell, 0, 0

    def event(self, progress: SearchProgress) -> None:
        """Take an event of the driver: tokens show that it lives before the first result is there."""
        if progress.kind == "generated":
            self._tokens += len(progress.node.tokens)
            self._bar.update(self._task, description=self._words())

    def took(self, record: Record) -> None:
        """Count a result that was written."""
        self._done += 1
        self._searched += record["shared"] is None
        self._failed += record["error"] is not None
        self._graded += record["correct"] is not None
        self._right += record["correct"] is True
        self._bar.update(self._task, completed=self._done, description=self._words())
        now = time.monotonic()
        if self._bar.disable and (self._done == self._total or now - self._line_at >= _LINE_SECONDS):
            self._line_at = now
            say(self._console, self._words())

    def _words(self) -> str:
        passed = max(time.monotonic() - self._begun, 1e-9)
        words = [f"{self._done}/{self._total}"]
        if self._searched:
            left = (self._total - self._done) * passed / self._searched
            words += [f"{3600 * self._searched / passed:,.0f} problems/h", f"{numbers.seconds(left)} left"]
        if self._failed:
            words.append(f"{self._failed} failed")
        if self._graded:
            words.append(f"{numbers.share(self._right, self._graded)} right in {self._cell}")
        return ", ".join([*words, f"{self._tokens / passed:,.0f} tokens/s"])
