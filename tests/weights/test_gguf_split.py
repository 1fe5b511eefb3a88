"""GGUF models in several files: the same model from any part, and none at all when a part is not what it should be."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from branchwise.errors import CheckpointError
from branchwise.weights import open_checkpoint
from weights.samples import finish, tiny_model, write_gguf

COUNT = "split.count"


def split(whole: Path, parts: list[list[str]], stem: str = "m", **changes: dict[int, Any]) -> list[Path]:
    """Cut a GGUF file by tensor names, as llama.cpp's tool does: metadata in the first part, counts in all.

    changes: `no`, `count`, `tensors` (by part number) say something else, None nothing; `extra`: metadata of a part
    """
    reader = gguf.GGUFReader(whole)
    told = {"no": dict(enumerate(range(len(parts)))), "count": {}, "tensors": {}, "extra": {}} | changes
    paths = []
    for number, names in enumerate(parts):
        path = whole.parent / f"{stem}-{number + 1:05}-of-{len(parts):05}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        if number:
            del writer.kv_data[0]["general.architecture"]
        for name, field in reader.fields.items() if number == 0 else ():
            if not name.startswith(("GGUF.", "general.architecture")):
                writer.add_key_value(name, field.contents(), field.types[0])
        counts = {
            "split.no": (told["no"].get(number, number), "UINT16"),
            COUNT: (told["count"].get(number, len(parts)), "UINT16"),
            "split.tensors.count": (told["tensors"].get(number, len(reader.tensors)), "INT32"),
        }
        for key, (value, kind) in counts.items():
            if value is not None:
                writer.add_key_value(key, value, gguf.GGUFValueType[kind])
        for key, value in told["extra"].get(number, {}).items():
            writer.add_key_value(key, value, gguf.GGUFValueType.STRING)
        for tensor in reader.tensors:
            if tensor.name in names:
                writer.add_tensor(tensor.name, tensor.data)
        paths.append(finish(writer, path))
    return paths


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "whole.gguf", "llama", tiny_model("llama"), general__name="one")


def names_of(path: Path) -> list[str]:
    return [tensor.name for tensor in gguf.GGUFReader(path).tensors]


def test_every_part_opens_the_whole_model(whole: Path) -> None:
    names = names_of(whole)
    head = [name for name in names if name == "output.weight"]
    rest = [name for name in names if name not in head]
    expected = open_checkpoint(whole)
    for parts in ([rest, head], [[], names], [names[:3], names[3:9], names[9:]]):
        paths = split(whole, parts, stem=f"m{len(parts)}{len(parts[0])}")
        for path in paths:
            given = open_checkpoint(path)
            assert given.files() == paths
            assert given.config == expected.config
            assert not given.config["tie_word_embeddings"]
            assert given.names() == expected.names()
            for name in expected.names():
                assert torch.equal(given.load(name, torch.float32), expected.load(name, torch.float32))


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_missing_part_is_named(whole: Path, gone: int) -> None:
    names = names_of(whole)
    paths = split(whole, [names[:3], names[3:9], names[9:]])
    paths[gone].unlink()
    for path in paths:
        if path.exists():
            with pytest.raises(CheckpointError, match=f"one of 3 parts.*missing: {paths[gone].name}"):
                open_checkpoint(path)


WRONG: dict[str, tuple[dict[str, dict[int, Any]], str]] = {
    "two first parts": ({"no": {0: 0, 1: 0}}, r"00002-of-00002.gguf has split.no = 0, expected 1"),
    "numbered from 1": ({"no": {0: 1, 1: 2}}, r"has split.no = 1, expected 0"),
    "no number": ({"no": {0: 0, 1: None}}, r"has split.no = None, expected 1"),
    "another count": (
        {"count": {1: 3}},
        r"00002-of-00002.gguf has split.count = 3, expected 2|whose names must end in",
    ),
    "no count": ({"count": {1: None}}, r"split.count = None, expected 2|says by its name that it is one of 2 parts"),
    "other tensors": ({"tensors": {1: 7}}, r"has split.tensors.count = 7, expected 21"),
    "too many tensors": ({"tensors": {0: 22, 1: 22}}, r"split.tensors.count = 22, but its 2 parts hold 21 tensors"),
    "another model": ({"extra": {1: {"general.name": "two"}}}, r"00002.gguf has another general.name than m-00001"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("given", [0, 1])
def test_parts_that_do_not_belong_together(case: str, given: int, whole: Path) -> None:
    changes, message = WRONG[case]
    names = names_of(whole)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(split(whole, [names[:9], names[9:]], **changes)[given])


def test_a_tensor_in_two_parts(whole: Path) -> None:
    names = names_of(whole)
    with pytest.raises(CheckpointError, match=f"earlier part holds, too: {names[8]}"):
        open_checkpoint(split(whole, [names[:9], names[8:]])[0])


@pytest.mark.parametrize("name", ["model.gguf", "m-00001-of-00003.gguf", "m-1-of-2.gguf"])
def test_a_renamed_part(name: str, whole: Path) -> None:
    names = names_of(whole)
    first = split(whole, [names[:9], names[9:]])[0]
    shutil.move(first, whole.parent / name)
    with pytest.raises(CheckpointError, match=r"one of 2 parts, whose names must end in -00001-of-00002\.gguf"):
        open_checkpoint(whole.parent / name)


def test_a_whole_file_named_like_a_part(whole: Path) -> None:
    path = whole.rename(whole.parent / "m-00001-of-00002.gguf")
    with pytest.raises(CheckpointError, match="says by its name that it is one of 2 parts, but not inside"):
        open_checkpoint(path)
    assert open_checkpoint(path.rename(whole.parent / "m-00001-of-00001.gguf")).names()


def test_a_count_that_is_none(tmp_path: Path) -> None:
    for value in ("2", -1, 1 << 17):
        kind = "STRING" if isinstance(value, str) else "INT32"
        writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
        writer.add_key_value(COUNT, value, gguf.GGUFValueType[kind])
        with pytest.raises(CheckpointError, match=r"has split.count = .*, expected a number of parts"):
            open_checkpoint(finish(writer, tmp_path / "x.gguf"))
