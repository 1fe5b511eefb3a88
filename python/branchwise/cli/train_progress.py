"""The progress of `train-head` once its solutions are drawn: a bar on a terminal, a few lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from branchwise.cli.output import make_console, say
from branchwise.report import numbers
from branchwise.training.train import Listener

if TYPE_CHECKING:
    from branchwise.training.choose import Choice

_LINE_SECONDS = 30.0  # between two lines where there is no terminal


class TrainProgress(Listener):
    """Says which problem's states are read, and how well the best choice does so far."""

    def __init__(self) -> None:
        self._console = make_console(stderr=True)
        columns = (SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("reading the solutions", total=None)
        self._begun = self._line_at = time.monotonic()
        self._best: Choice | None = None

    def __enter__(self) -> TrainProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def read(self, done: int, total: int) -> None:
        """States of so many problems are known."""
        left = (total - done) * (time.monotonic() - self._begun) / done
        self._say(f"states of {done}/{total} problems, {numbers.seconds(left)} left", done, total)

    def tried(self, choice: Choice) -> None:
        """Another choice was fitted."""
        if self._best is None or choice.worth > self._best.worth:
            self._best = choice
        best = self._best
        aucs = f"AUC {numbers.measure(best.auc)}, within a problem {numbers.measure(best.within)}"
        self._say(f"best so far: {aucs}: {best.words()}", None, None)

    def _say(self, words: str, done: int | None, total: int | None) -> None:
        self._bar.update(self._task, description=words, completed=done or 0, total=total)
        now = time.monotonic()
        if self._bar.disable and ((done is not None and done == total) or now - self._line_at >= _LINE_SECONDS):
            self._line_at = now
            say(self._console, words)
