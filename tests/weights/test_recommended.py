"""What a checkpoint recommends for sampling is read, whatever lies in its file, and never applied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from branchwise.errors import CheckpointError
from branchwise.weights.recommended import FILE, Recommended, of_folder, of_metadata


def read(folder: Path, content: Any) -> Recommended:
    (folder / FILE).write_text(content if isinstance(content, str) else json.dumps(content))
    return of_folder(folder)


def test_a_folder(tmp_path: Path) -> None:
    assert of_folder(tmp_path) == Recommended()
    given = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.1, "eos_token_id": [1, 2]}
    made = read(tmp_path, {**given, "transformers_version": "5.0", "min_p": None})
    assert made == Recommended({"temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.1})
    assert read(tmp_path, {"do_sample": False, "temperature": 0.6}).values == {"temperature": 0.0}
    assert read(tmp_path, {}) == Recommended()


def test_a_gguf_file() -> None:
    metadata = {"general.sampling.temp": 0.6000000238418579, "general.sampling.top_k": 20, "general.name": "x"}
    assert of_metadata({**metadata, "general.sampling.penalty_repeat": 1.0}) == Recommended(
        {"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.0}
    )
    assert of_metadata({}) == Recommended()


ODD = ["warm", [0.6], {"a": 1}, True, float("nan"), float("inf"), 10**400, "x" * 10_000]


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_what_is_no_number_is_named(tmp_path: Path, value: Any) -> None:
    made = read(tmp_path, {"temperature": value, "top_p": 0.9})
    assert made.values == {"top_p": 0.9}
    assert list(made.odd) == ["temperature"]
    assert len(made.odd["temperature"]) <= 40


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "[" * 100_000, '{"a": 1, "a": 2}', "\x00"])
def test_damaged_files(tmp_path: Path, content: str) -> None:
    with pytest.raises(CheckpointError, match=FILE):
        read(tmp_path, content)
    (tmp_path / FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=FILE):
        of_folder(tmp_path)
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    with pytest.raises(CheckpointError, match="is a folder"):
        of_folder(tmp_path)
