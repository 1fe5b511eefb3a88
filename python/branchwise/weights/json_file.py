"""JSON files of a checkpoint: an object with no key twice, of a size that config and index may have."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from branchwise.errors import CheckpointError
from branchwise.weights.regular import open_regular

_MOST_BYTES = 100_000_000


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file. CheckpointError: it cannot be read, or is no JSON object."""
    try:
        with open_regular(path) as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}. A model folder needs {path.name} beside its weights."
        ) from error
    if len(data) > _MOST_BYTES:
        raise damaged(path, f"larger than {_MOST_BYTES} bytes")
    return parse_json(path, data)


def parse_json(path: Path, data: bytes) -> dict[str, Any]:
    """The object in `data`, which came from `path`. CheckpointError: it is none."""
    try:
        value = json.loads(data, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise damaged(path, f"expected a JSON object, found {str(value)[:80]!r}")
    return value


def damaged(path: Path, problem: str) -> CheckpointError:
    """The error for a file that is not what it should be."""
    return CheckpointError(f"{path}: {problem}. The file is truncated or damaged: download it again.")


def _no_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise ValueError(f"key {key!r} appears twice")
        out[key] = value
    return out
