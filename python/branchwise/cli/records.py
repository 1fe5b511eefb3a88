"""Records of a results file: what is written of a row, and which rows are tried again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from branchwise.cli.problems import BadRow
from branchwise.errors import ResultsError
from branchwise.report.kept import keep
from branchwise.types import Cost, Problem, Result

if TYPE_CHECKING:
    from branchwise.report.record import Record
    from branchwise.report.results_file import ResultsFile

Row = Problem | BadRow


def result_record(result: Result, wall_seconds: float) -> Record:
    """The record of a search; wall_seconds: since the result before it."""
    return {
        "id": result.problem.id,
        "question": digest(result.problem),
        "prompt_digest": result.prompt_digest,
        "error": None if result.error is None else str(result.error),
        "answer": result.answer,
        "gold": result.problem.answer,
        "correct": result.correct,
        "text": result.text,
        "score": result.score,
        "confidence": result.confidence,
        "calibrated": result.calibrated,
        "decisions": [asdict(decision) for decision in result.decisions],
        "votes": result.votes,
        "cuts": result.cuts,
        "equal": result.equal,
        "unjudged": result.unjudged,
        "cost": asdict(result.cost),
        "wall_seconds": wall_seconds,  # the sum is the time that the run took
        "shared": None,
        "candidates": keep(result.candidates, result.tree),
    }


def bad_record(row: BadRow) -> Record:
    """The record of a row that could not be searched: as that of a search that failed at once."""
    return {
        "id": row.id, "question": digest(row), "prompt_digest": None, "error": row.error, "answer": None, "gold": None,
        "correct": None, "text": "", "score": None, "confidence": None, "calibrated": False, "decisions": [],
        "votes": [], "cuts": {}, "equal": 0, "unjudged": {}, "cost": asdict(Cost()), "wall_seconds": 0.0,
        "shared": None, "candidates": [],
    }  # fmt: skip


def settings_digest(header: Mapping[str, Any]) -> str:
    """Tells in every record which settings it comes from: those of the first line, and what they came to."""
    made = {name: header[name] for name in ("settings", "resolved")}
    return hashlib.blake2b(json.dumps(made, sort_keys=True).encode(), digest_size=8).hexdigest()


def to_retry(results: ResultsFile, rows: list[Row], *, failed: bool, shared: bool) -> set[str]:
    """Rows that are tried again: on demand those that failed or were shared, those that have been mended anyway."""
    again = set()
    for row in rows:
        record = results.done.get(row.id)
        if record is None:
            continue
        mended = record["question"] != digest(row)
        if (record["error"] is not None and (failed or mended)) or (shared and record["shared"] is not None):
            again.add(row.id)
    return again


def left_of(results: ResultsFile, rows: list[Row]) -> list[Row]:
    """The rows without a record. ResultsError: a record is one of another row."""
    left = []
    for row in rows:
        record = results.done.get(row.id)
        if record is None:
            left.append(row)
            continue
        if record["question"] != digest(row):
            raise ResultsError(
                f"{results.path} holds a result of {row.id!r} for another question or gold answer:"
                " choose another --out for this file of problems"
            )
    return left


def digest(row: Row) -> str:
    """Tells rows apart that share an id."""
    about = row.text if isinstance(row, BadRow) else f"{row.text}\0{row.answer}\0{row.seed}"
    return hashlib.blake2b(about.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
