"""Problem files: JSON lines with id, problem and answer. What is wrong with a row concerns that row alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from branchwise.config import check_seed
from branchwise.errors import ConfigError, InputError
from branchwise.types import Message, Problem

_EXPECTED = 'expected a JSON object such as {"id": "1", "problem": "1+1=?", "answer": "2"}'
_LONGEST = 1 << 25  # bytes of a line
_SHOWN = 80  # characters of what was given, in an error


class _Number(str):
    """A number as it was written: no digit is lost, and none is too many."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is no problem. id: its own, or "line-7" where it has none that could be used."""

    id: str
    text: str  # the line
    error: str


def read_rows(path: Path, limit: int | None = None) -> list[Problem | BadRow]:
    """The rows of a file, in order, at most `limit`; blank lines are skipped.

    `answer` may be absent; `seed` overrides that of the run; `prompt`, a text or chat messages, is what the policy
    goes on with in the place of `problem` and the instruction. InputError: it is no file that can be read, or no row
    of it is a problem.
    """
    rows: dict[str, Problem | BadRow] = {}
    for number, line in islice(_lines(path), None if limit is None else min(limit, sys.maxsize)):
        row = _read(line, number)
        if row.id in rows:
            row = BadRow("", row.text, f"line {number}: the id {_show(row.id)} was used before: ids must be unique")
        if isinstance(row, BadRow) and not row.id:
            row = replace(row, id=_free(f"line-{number}", rows))
        rows[row.id] = row
    found = list(rows.values())
    if not any(isinstance(row, Problem) for row in found):
        first = next((f": {row.error}" for row in found if isinstance(row, BadRow)), f": {_EXPECTED} in every line")
        raise InputError(f"{path} holds no problem{first}")
    return found


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers; of one that is too long, its beginning."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(f"{path} is no file, so a run could not read it again to go on: save the problems in one")
        with path.open("rb") as file:
            number = 0
            while line := _line(file):
                number += 1
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line  # a byte order mark
                if line.strip():
                    yield number, line
    except OSError as error:
        raise InputError(f"cannot read the problems in {path}: {error.strerror}") from error


def _line(file: BinaryIO) -> bytes:
    line = rest = file.readline(_LONGEST + 1)
    while len(rest) > _LONGEST and not rest.endswith(b"\n"):
        rest = file.readline(_LONGEST + 1)
    return line


def _read(line: bytes, number: int) -> Problem | BadRow:
    """A line as a problem; a bad one has an empty id where its own is of no use."""
    id_ = ""
    try:
        row = _parse(line)
        found = _word(row, "id")
        if found is None:
            raise InputError(f"no 'id', by which a run resumes: {_EXPECTED}")
        id_ = found
        return Problem(id_, _text(row), prompt=_prompt(row), answer=_word(row, "answer"), seed=_seed(row))
    except (InputError, ConfigError) as error:
        return BadRow(id_, line.decode("utf-8", "replace"), f"line {number}: {error}")


def _parse(line: bytes) -> dict[str, Any]:
    if len(line) > _LONGEST:
        raise InputError(f"more than {_LONGEST} bytes long")
    try:
        row = json.loads(line.decode("utf-8"), parse_int=_Number, parse_float=_Number)
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text (byte {error.start}): save the file as UTF-8") from error
    except RecursionError:
        raise InputError(f"nested too deeply: {_EXPECTED}") from None
    except ValueError as error:
        raise InputError(f"no valid JSON ({error}): {_EXPECTED}") from error
    if not isinstance(row, dict):
        kind = "number" if isinstance(row, _Number) else type(row).__name__
        raise InputError(f"{kind} instead of an object: {_EXPECTED}")
    return row


def _text(row: dict[str, Any]) -> str:
    text = row.get("problem")
    if not isinstance(text, str) or isinstance(text, _Number) or not text.strip():
        what = "no 'problem'" if text is None else "an empty 'problem'" if text == "" else f"'problem' is {_show(text)}"
        raise InputError(f"{what} (it has {_show_names(row)}): {_EXPECTED}")
    return _unicode("problem", text)


def _prompt(row: dict[str, Any]) -> str | list[Message] | None:
    """Its own prompt; what no chat template could take is refused later, with that template's words."""
    value = row.get("prompt")
    if value is None:
        return None
    if isinstance(value, str) and not isinstance(value, _Number) and value.strip():
        return _unicode("prompt", value)
    if isinstance(value, list) and value and all(map(_is_message, value)):
        return [{name: _unicode("prompt", text) for name, text in each.items()} for each in value]
    raise InputError(
        f"'prompt' is {_show(value)}, expected a text, or chat messages such as"
        ' [{"role": "user", "content": "1+1=?"}]'
    )


def _is_message(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"role", "content"}
        and all(isinstance(each, str) and not isinstance(each, _Number) for each in value.values())
    )


def _word(row: dict[str, Any], name: str) -> str | None:
    """A field that is a text or a number, as text; None when it is absent."""
    value = row.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name!r} is {_show(value)}, expected a text or a number: {_EXPECTED}")
    return _unicode(name, str(value))


def _seed(row: dict[str, Any]) -> int | None:
    value = row.get("seed")
    if value is None:
        return None
    try:
        seed = int(value) if isinstance(value, _Number) else -1
    except ValueError:  # a fraction, or too many digits
        seed = -1
    try:
        check_seed(seed)
    except ConfigError:
        raise InputError(f"'seed' is {_show(value)}, expected an integer in [0, 2^64)") from None
    return seed


def _unicode(name: str, text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        raise InputError(f"{name!r} holds half a character ({code} at {error.start}): save it as whole ones") from None
    return text


def _show(value: object) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    shown = str(value) if isinstance(value, _Number) else repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def _show_names(row: dict[str, Any]) -> str:
    shown = ", ".join(_show(name) for name in islice(row, 8)) or "no fields"
    return shown if len(row) <= 8 else f"{shown} and {len(row) - 8} more"


def _free(id_: str, taken: dict[str, Any]) -> str:
    while id_ in taken:
        id_ += "+"
    return id_
