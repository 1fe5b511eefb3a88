"""Records of a results file in memory: compressed, as each may hold hundreds of candidates."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from branchwise.report.record import Record, fault


class Lines(Mapping[str, Record]):
    """Records by id, in order. One that is looked up is a copy: to change it changes nothing here."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._packed: dict[str, bytes] = {}
        for record in records:
            self.put(record)

    def put(self, record: Record) -> None:
        """Take a record in, under its `id`."""
        self._packed[record["id"]] = zlib.compress(line(record), 1)

    def __getitem__(self, id_: str) -> Record:
        made: Record = json.loads(zlib.decompress(self._packed[id_]))
        return made

    def __contains__(self, id_: object) -> bool:
        return id_ in self._packed

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def line(record: Mapping[str, Any]) -> bytes:
    """A record as it is written. ValueError: a number in it is NaN or infinite."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"


def parse(text: bytes) -> dict[str, Any] | None:
    """The object that a line holds; None where it is damaged."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # of JSON and of UTF-8
        return None
    return value if isinstance(value, dict) else None


def read(text: bytes) -> tuple[Record | None, str]:
    """The record that a line holds; else None, and why it holds none of this version."""
    value = parse(text)
    wrong = "it is damaged" if value is None else fault(value)
    return (None, wrong) if wrong else (cast(Record, value), "")
