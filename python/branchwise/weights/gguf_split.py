"""A GGUF model that was cut into several files: whichever part is given, all are read, and must be parts of one model.

Every part says `split.no` (from 0), `split.count` and `split.tensors.count` (of all parts); the first holds the
metadata. Names end in `-00001-of-00003.gguf`, counted from 1.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from branchwise.errors import CheckpointError
from branchwise.weights.checkpoint import some
from branchwise.weights.gguf_file import GgufFile, GgufTensor, read_gguf

_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_NO, _COUNT, _TENSORS = "split.no", "split.count", "split.tensors.count"
_MOST_PARTS = 0xFFFF  # the format's own limit


def read_model(path: Path) -> GgufFile:
    """The header of a whole model: of the file, or of all the parts that belong with it.

    CheckpointError: a part is missing, damaged, or not of this model. OSError: one cannot be opened.
    """
    given = read_gguf(path)
    count = _count(given)
    named = _NAME.fullmatch(path.name)
    if count == 1:
        if named and int(named["count"]) > 1:
            raise _error(given, f"says by its name that it is one of {int(named['count'])} parts, but not inside")
        return given
    if named is None or int(named["count"]) != count:
        raise _error(
            given, f"is one of {count} parts, whose names must end in -00001-of-{count:05}.gguf and so on: rename them"
        )
    names = [f"{named['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    missing = [name for name in names if not (path.parent / name).exists()]
    if missing:
        raise _error(given, f"is one of {count} parts, and beside it are missing: {some(missing)}. Download them")
    parts = [given if name == path.name else read_gguf(path.parent / name) for name in names]
    for number, part in enumerate(parts):
        _check_part(part, number, parts[0])
    tensors = _joined(parts)
    return replace(parts[0], tensors=tensors, parts=tuple(part.path for part in parts))


def _count(file: GgufFile) -> int:
    """How many parts the model has by its metadata; 1 for a whole one."""
    count = file.metadata.get(_COUNT, 1)
    if type(count) is not int or not 0 <= count <= _MOST_PARTS:
        raise _error(file, f"has {_COUNT} = {count!r}, expected a number of parts")
    return max(count, 1)


def _check_part(part: GgufFile, number: int, first: GgufFile) -> None:
    for key, expected in (
        (_COUNT, first.metadata.get(_COUNT)),
        (_NO, number),
        (_TENSORS, first.metadata.get(_TENSORS)),
    ):
        if (value := part.metadata.get(key)) != expected or type(value) is bool:
            raise _error(
                part, f"has {key} = {value!r}, expected {expected!r}: it is a part of another model, or renamed"
            )
    for key, value in part.metadata.items():
        if not key.startswith("split.") and key in first.metadata and value != first.metadata[key]:
            raise _error(part, f"has another {key} than {first.path.name}: it is a part of another model")


def _joined(parts: list[GgufFile]) -> dict[str, GgufTensor]:
    tensors: dict[str, GgufTensor] = {}
    for part in parts:
        if twice := tensors.keys() & part.tensors.keys():
            raise _error(part, f"holds tensors that an earlier part holds, too: {some(twice)}")
        tensors |= part.tensors
    total = parts[0].metadata.get(_TENSORS)
    if total is not None and total != len(tensors):
        raise _error(parts[0], f"has {_TENSORS} = {total!r}, but its {len(parts)} parts hold {len(tensors)} tensors")
    return tensors


def _error(file: GgufFile, problem: str) -> CheckpointError:
    return CheckpointError(f"{file.path} {problem}.")
