"""Problem files: JSON lines with id, problem and answer, checked before anything else happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from branchwise.errors import InputError
from branchwise.types import Problem

_EXPECTED = 'expected a JSON object such as {"id": "1", "problem": "1+1=?", "answer": "2"}'


def read_problems(path: Path) -> list[Problem]:
    """All problems of a file, in order. `answer` may be absent; blank lines are skipped.

    InputError names file and line: no such file, bad JSON, a missing or empty field, an id used twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InputError(f"cannot read the problems in {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    problems: dict[str, Problem] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        problem = _parse(line, f"{path}, line {number}")
        if problem.id in problems:
            raise InputError(f"{path}, line {number}: the id {problem.id!r} was used before: ids must be unique")
        problems[problem.id] = problem
    if not problems:
        raise InputError(f"{path} holds no problem: {_EXPECTED} in every line")
    return list(problems.values())


def _parse(line: str, where: str) -> Problem:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: no valid JSON ({error}): {_EXPECTED}") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: {type(row).__name__} instead of an object: {_EXPECTED}")
    text = row.get("problem")
    if not isinstance(text, str) or not text.strip():
        what = "no 'problem'" if text is None else "an empty 'problem'" if text == "" else f"'problem' is {text!r}"
        fields = ", ".join(map(repr, row)) or "no fields"
        raise InputError(f"{where}: {what} (it has {fields}): {_EXPECTED}")
    id_ = _word(row, "id", where)
    if id_ is None:
        raise InputError(f"{where}: no 'id', by which a run resumes: {_EXPECTED}")
    return Problem(id=id_, text=text, answer=_word(row, "answer", where))


def _word(row: dict[str, Any], name: str, where: str) -> str | None:
    """A field that is a text or a number, as text; None when it is absent."""
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        raise InputError(f"{where}: {name!r} is {value!r}, expected a text or a number: {_EXPECTED}")
    return str(value)
