"""The cells of an evaluation at work: each has a file, and is filled by searches, or by what another one has found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from branchwise.cli.cells import Cell, sources
from branchwise.cli.problems import BadRow
from branchwise.cli.records import Row, bad_record, digest, left_of, result_record, settings_digest, to_retry
from branchwise.report.again import retake
from branchwise.report.folder import ResultsFolder
from branchwise.report.results_file import ResultsFile
from branchwise.types import Problem

if TYPE_CHECKING:
    from branchwise.api import Engine
    from branchwise.cli.eval_progress import EvalProgress
    from branchwise.report.record import Record

Grade = Callable[[str | None, str], bool]


class Work:
    """One cell. ResultsError: a result in its file is damaged, or one of another row.

    source: the work whose records say what it would find    place: among the cells as they were asked for
    budget: of all rows together, as `Engine.solve_many` takes it
    """

    def __init__(
        self, cell: Cell, results: ResultsFile, rows: Sequence[Row], *, source: Work | None, place: int,
        budget: Mapping[str, float],
    ) -> None:  # fmt: skip
        self.cell, self.results, self.source, self.place, self.budget = cell, results, source, place, budget
        self.rows = [cell.row(row) for row in rows]
        self._left: dict[str, Row] = {}

    @property
    def done(self) -> int:
        """How many rows have a result."""
        return sum(row.id in self.results.done for row in self.rows)

    @property
    def left(self) -> list[Row]:
        """Rows without a result."""
        return list(self._left.values())

    def begin(self, *, failed: bool, shared: bool) -> None:
        """See what is there; results that failed, or were shared, come again on demand."""
        self.results.drop(to_retry(self.results, self.rows, failed=failed, shared=shared))
        self._left = {row.id: row for row in left_of(self.results, self.rows)}

    def share(self, grade: Grade, took: Callable[[Record], None]) -> None:
        """Take what the source knows of the rows that are left."""
        if self.source is None or not self.source.results.done or not self._left:
            return
        have, want = self.source.cell.rule, self.cell.rule
        assert have is not None
        assert want is not None
        self.results.begin(self.source.results.header["resolved"])
        for row in self.left:
            record = self.source.results.done.get(row.id)
            made = None if record is None or isinstance(row, BadRow) else retake(record, have, want, grade)
            if made is not None:
                self._take({**made, "question": digest(row), "shared": self.source.cell.name}, took)

    def run(self, engine: Engine, in_flight: int | None, progress: EvalProgress) -> None:
        """Search what is left, and write each result as it comes."""
        for row in self.left:
            if isinstance(row, BadRow):
                self._take(bad_record(row), progress.took)
        last = time.monotonic()
        rows = self.rows if self.budget else self.left  # a budget is that of a closed set
        problems = [row for row in rows if isinstance(row, Problem)]
        spent: dict[str, Any] = {**self.budget, "waves": self.results.path.with_suffix(".waves")} if self.budget else {}
        found = engine.solve_many(
            problems, self.cell.strategy, max_in_flight=in_flight, on_event=progress.event, seed=self.cell.seed,
            **spent,
        )  # fmt: skip
        for result in found:
            if result.problem.id not in self._left:
                continue
            now = time.monotonic()
            self._take(result_record(result, now - last), progress.took)
            last = now

    def _take(self, record: Record, took: Callable[[Record], None]) -> None:
        record = {**record, "settings": settings_digest(self.results.header)}
        self.results.append(record)
        self._left.pop(record["id"], None)
        took(record)


def make_works(
    cells: Sequence[Cell], folder: ResultsFolder, rows: Sequence[Row], *, share: bool, without_chance: bool,
    budget: Mapping[str, float],
) -> list[Work]:  # fmt: skip
    """The work of each cell, those first whose records say what others would find."""
    shared = sources(cells, without_chance=without_chance) if share else {}
    made: dict[str, Work] = {}
    for cell in sorted(cells, key=lambda cell: cell.name in shared):
        source = shared.get(cell.name)
        made[cell.name] = Work(
            cell, folder.open(cell.name, cell.own, cell.label), rows,
            source=None if source is None else made[source.name], place=cells.index(cell), budget=budget,
        )  # fmt: skip
    return list(made.values())
