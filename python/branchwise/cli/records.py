"""Records of a results file: what is written of a row, and what a later run makes of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from branchwise.cli.problems import BadRow
from branchwise.errors import ResultsError
from branchwise.types import Cost, Problem, Result

if TYPE_CHECKING:
    from branchwise.report.results_file import Record, ResultsFile
    from branchwise.report.tally import Tally

Row = Problem | BadRow

_RESULT = "id, question, error, correct, cuts, cost, wall_seconds"


def result_record(result: Result, wall_seconds: float) -> Record:
    """The record of a search; wall_seconds: since the result before it."""
    return {
        "id": result.problem.id,
        "question": _digest(result.problem),
        "prompt_digest": result.prompt_digest,
        "error": None if result.error is None else str(result.error),
        "answer": result.answer,
        "gold": result.problem.answer,
        "correct": result.correct,
        "text": result.text,
        "score": result.score,
        "votes": result.votes,
        "cuts": result.cuts,
        "cost": asdict(result.cost),
        "wall_seconds": wall_seconds,  # the sum is the time that the run took
    }


def settings_digest(header: Record) -> str:
    """Tells in every record which settings it comes from: those of the first line, and what they came to."""
    made = {name: header[name] for name in ("settings", "resolved")}
    return hashlib.blake2b(json.dumps(made, sort_keys=True).encode(), digest_size=8).hexdigest()


def bad_record(row: BadRow) -> Record:
    """The record of a row that could not be searched: as that of a search that failed at once."""
    nothing = dict.fromkeys(("prompt_digest", "answer", "gold", "correct", "text", "score"))
    spent = {"votes": [], "cuts": {}, "cost": asdict(Cost()), "wall_seconds": 0.0}
    return {"id": row.id, "question": _digest(row), "error": row.error, **nothing, **spent}


def to_retry(results: ResultsFile, rows: list[Row], retry_failed: bool) -> set[str]:
    """Rows that failed and are to be tried again: all of them on demand, those that have been mended anyway."""
    again = set()
    for row in rows:
        record = results.done.get(row.id, {})
        if record.get("error") is not None and (retry_failed or record.get("question") != _digest(row)):
            again.add(row.id)
    return again


def resumed(results: ResultsFile, rows: list[Row]) -> tuple[Tally, list[Row]]:
    """The tally of the rows that are done, and those that are not."""
    from branchwise.report.tally import Tally

    tally, left = Tally(), []
    for row in rows:
        record = results.done.get(row.id)
        if record is None:
            left.append(row)
            continue
        try:
            question = record["question"]
            count(tally, record)
        except (KeyError, TypeError) as error:
            raise ResultsError(
                f"{results.path}: the result of {row.id!r} lacks what this version writes ({_RESULT});"
                " remove its line or choose another --out"
            ) from error
        if question != _digest(row):
            raise ResultsError(
                f"{results.path} holds a result of {row.id!r} for another question or gold answer:"
                " choose another --out for this file of problems"
            )
    return tally, left


def count(tally: Tally, record: Record) -> None:
    """Add a record to the tally. KeyError, TypeError: it lacks something."""
    tally.add(record["correct"], Cost(**record["cost"]), record["cuts"], failed=record["error"] is not None)
    tally.wall_seconds += record["wall_seconds"]


def _digest(row: Row) -> str:
    """Tells rows apart that share an id."""
    about = row.text if isinstance(row, BadRow) else f"{row.text}\0{row.answer}\0{row.seed}"
    return hashlib.blake2b(about.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
