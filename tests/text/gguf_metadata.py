"""Reads the metadata of a GGUF file into plain Python values: a small, fast twin of gguf.GGUFReader for tests."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


class _Cursor:
    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 4  # behind the magic

    def scalars(self, code: str, count: int = 1) -> list[Any]:
        layout = f"<{count}{code}"
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return list(values)

    def string(self) -> str:
        (length,) = self.scalars("Q")
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            (kind,), (count,) = self.scalars("I"), self.scalars("Q")
            return [self.string() for _ in range(count)] if kind == _STRING else self.scalars(_SCALARS[kind], count)
        return self.scalars(_SCALARS[kind])[0]


def read_metadata(path: Path) -> dict[str, Any]:
    """All key-value pairs of a GGUF file of version 2 or 3; its tensors are not touched."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        cursor = _Cursor(data)
        cursor.scalars("I")
        _, count = cursor.scalars("Q", 2)
        result = {}
        for _ in range(count):
            key = cursor.string()
            (kind,) = cursor.scalars("I")
            result[key] = cursor.value(kind)
        return result
