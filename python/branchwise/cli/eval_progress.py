"""The progress of `eval`: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from branchwise.cli.output import make_console, say
from branchwise.report import numbers
from branchwise.report.tally import Tally
from branchwise.search.protocol import Progress as SearchProgress

_LINE_SECONDS = 30.0  # between two lines where there is no terminal


class EvalProgress:
    """Shows count, rate, time left and running accuracy on stderr. The rate counts this run alone."""

    def __init__(self, tally: Tally, total: int) -> None:
        self._tally, self._total = tally, total
        self._before = tally.problems
        self._begun = self._line_at = time.monotonic()
        self._tokens = 0
        self._console = make_console(stderr=True)
        columns = (SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task(self._words(), total=total, completed=self._before)

    def __enter__(self) -> EvalProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def event(self, progress: SearchProgress) -> None:
        """Take an event of the driver: tokens show that it lives before the first result is there."""
        if progress.kind == "generated":
            self._tokens += len(progress.node.tokens)
            self._bar.update(self._task, description=self._words())

    def update(self) -> None:
        """Show the tally, which has one more result."""
        self._bar.update(self._task, completed=self._tally.problems, description=self._words())
        now = time.monotonic()
        is_over = self._tally.problems == self._total
        if self._bar.disable and (is_over or now - self._line_at >= _LINE_SECONDS):
            self._line_at = now
            say(self._console, self._words())

    def _words(self) -> str:
        tally, passed = self._tally, max(time.monotonic() - self._begun, 1e-9)
        new = tally.problems - self._before
        words = [f"{tally.problems}/{self._total}"]
        if new:
            left = (self._total - tally.problems) * passed / new
            words += [f"{3600 * new / passed:,.0f} problems/h", f"{numbers.seconds(left)} left"]
        if tally.failed:
            words.append(f"{tally.failed} failed")
        if tally.graded:
            words.append(f"{numbers.share(tally.right, tally.graded)} right")
        return ", ".join([*words, f"{self._tokens / passed:,.0f} tokens/s"])
