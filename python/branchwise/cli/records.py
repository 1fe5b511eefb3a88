"""Records of a results file: what is written of a row, and which rows are tried again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from branchwise.cli.problems import BadRow
from branchwise.errors import ResultsError
from branchwise.report.kept import keep
from branchwise.types import Cost, Problem, Result

if TYPE_CHECKING:
    from branchwise.report.lines import Record
    from branchwise.report.results_file import ResultsFile

Row = Problem | BadRow

NEEDED = ("id", "question", "error", "answer", "correct", "cuts", "equal", "cost", "wall_seconds", "shared")


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
    nothing = dict.fromkeys(("prompt_digest", "answer", "gold", "correct", "text", "score", "confidence"))
    known = {"calibrated": False, "decisions": [], "votes": [], "cuts": {}, "equal": 0, "unjudged": {}}
    spent = {"cost": asdict(Cost()), "wall_seconds": 0.0}
    return {
        "id": row.id, "question": digest(row), "error": row.error, **nothing, **known, **spent, "shared": None,
        "candidates": [],
    }  # fmt: skip


def settings_digest(header: Record) -> str:
    """Tells in every record which settings it comes from: those of the first line, and what they came to."""
    made = {name: header[name] for name in ("settings", "resolved")}
    return hashlib.blake2b(json.dumps(made, sort_keys=True).encode(), digest_size=8).hexdigest()


def to_retry(results: ResultsFile, rows: list[Row], *, failed: bool, shared: bool) -> set[str]:
    """Rows that are tried again: on demand those that failed or were shared, those that have been mended anyway."""
    again = set()
    for row in rows:
        record = results.done.get(row.id, {})
        mended = record.get("question") != digest(row)
        if record.get("error") is not None and (failed or mended):
            again.add(row.id)
        if shared and record.get("shared") is not None:
            again.add(row.id)
    return again


def left_of(results: ResultsFile, rows: list[Row]) -> list[Row]:
    """The rows without a record. ResultsError: a record lacks something, or is one of another row."""
    left = []
    for row in rows:
        record = results.done.get(row.id)
        if record is None:
            left.append(row)
            continue
        missing = [name for name in NEEDED if name not in record]
        if missing or not set(record["cost"]) <= set(asdict(Cost())):
            raise ResultsError(
                f"{results.path}: the result of {row.id!r} lacks what this version writes"
                f" ({', '.join(missing) or 'cost'}); remove its line or choose another --out"
            )
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
