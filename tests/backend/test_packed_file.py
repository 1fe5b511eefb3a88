"""Packed weights come back from memory and from files with every bit, and files that are damaged are told apart."""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from branchwise import _C
from branchwise.backend.cpu.linear import GatedLinear, Packed, PackedLinear, gated_linear, packed_linear
from branchwise.backend.cpu.packed_file import DamagedFile, PackedFile, write_packed
from branchwise.weights.blocks import BlockFormat, Blocks, quantise
from large_memory import in_large_memory

FORMATS = [(8, 0, False), (8, 32, False), (8, 32, True), (4, 32, True), (4, 32, False), (5, 32, True), (6, 16, False)]
KEY = "0123456789abcdef"


def blocks(form: tuple[int, int, bool], out: int = 70, inputs: int = 96) -> Blocks:
    generator = np.random.default_rng(out)
    groups = inputs // form[1] if form[1] else 1
    codes = generator.integers(0, 1 << form[0], (out, inputs), np.uint8)
    scales = generator.random((out, groups), np.float32)
    return Blocks(BlockFormat(*form), codes, scales, generator.random((out, groups), np.float32) if form[2] else None)


def matrix(out: int = 70, inputs: int = 96, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(out, inputs, generator=torch.Generator().manual_seed(out)).to(dtype)


def product(packed: Packed, x: Tensor) -> Tensor:
    return PackedLinear([packed])(x)


@pytest.mark.parametrize(("dtype", "twelve_bit"), [("float32", False), ("bfloat16", False), ("bfloat16", True)])
@pytest.mark.parametrize("shape", [(1, 1), (70, 33), (64, 96)])
def test_dense_panels_make_the_weight_that_they_are_from(dtype: str, twelve_bit: bool, shape: tuple[int, int]) -> None:
    packed = _C.DenseWeight(matrix(*shape, dtype=getattr(torch, dtype)), twelve_bit)
    panels = in_large_memory(packed.panels)
    again = _C.DenseWeight.from_panels(panels, packed.shape, packed.dtype, packed.twelve_bit)
    assert (again.shape, again.dtype, again.twelve_bit, again.nbytes) == (shape, dtype, twelve_bit, packed.nbytes)
    assert again.panels.ctypes.data == panels.ctypes.data, "they were copied"
    del panels
    x = matrix(3, shape[1], getattr(torch, dtype))
    assert torch.equal(product(again, x), product(packed, x))


@pytest.mark.parametrize("form", FORMATS)
def test_panels_of_codes_make_the_weight_that_they_are_from(form: tuple[int, int, bool]) -> None:
    given = blocks(form)
    packed = _C.QuantisedWeight(given.codes, given.scales, given.minima, form[0], form[1])
    scale = packed.column_scale
    assert (scale is None) == (form[1] != 0)
    again = _C.QuantisedWeight.from_panels(in_large_memory(packed.panels), scale, packed.shape, *packed.format)
    assert (again.shape, again.format, again.nbytes) == ((70, 96), form, packed.nbytes)
    assert torch.equal(product(again, matrix(3)), product(packed, matrix(3)))


def test_views_cannot_be_written_and_outlive_their_weight() -> None:
    panels = _C.DenseWeight(torch.ones(32, 4)).panels
    assert panels.view(np.float32).tolist() == [1.0] * 128
    with pytest.raises(ValueError, match="read-only"):
        panels[0] = 1


def test_panels_that_do_not_fit_are_refused() -> None:
    room = _C.large_memory(8192)
    for shape, dtype, message in (
        ((32, 63), "float32", "panels has 8192 bytes, expected 8064"),
        ((0, 64), "float32", "the shape is"),
        ((1 << 40, 1 << 40), "float32", "the shape is"),
        ((32, 64), "float16", "dtype is float16"),
    ):
        with pytest.raises(ValueError, match=message):
            _C.DenseWeight.from_panels(room, shape, dtype, False)
    with pytest.raises(ValueError, match="cache line"):
        _C.DenseWeight.from_panels(room[4:4100], (32, 32), "float32", False)
    with pytest.raises(TypeError):
        _C.DenseWeight.from_panels(room[::2], (32, 32), "float32", False)
    with pytest.raises(ValueError, match="twelve-bit panels are of bfloat16"):
        _C.DenseWeight.from_panels(room, (32, 32), "float32", True)
    for scale, shape, form, message in (
        (None, (32, 128), (8, 0, False), "column_scale has 0 values, expected 32"),
        (np.ones(32, np.float32), (32, 128), (8, 32, False), "panels has 8192 bytes"),
        (None, (32, 100), (8, 32, False), "whole groups of 32"),
        (None, (32, 128), (7, 32, False), "bits is 7"),
        (None, (32, 128), (8, 16, True), "minima need groups of 32"),
    ):
        with pytest.raises(ValueError, match=message):
            _C.QuantisedWeight.from_panels(room[:4096] if form[1] == 0 else room, scale, shape, *form)


def layers() -> dict[str, Any]:
    """One of each kind: of several formats, fused, not fused, and a list."""
    mixed = [blocks((4, 32, True), 32), matrix(33), blocks((6, 16, False), 34)]
    int8 = [quantise(matrix(rows), BlockFormat(8, 0, False)) for rows in (64, 65)]
    return {
        "a.mixed": packed_linear(mixed),
        "a.fused": gated_linear(int8[0], int8[0], "silu"),
        "a.plain": gated_linear(int8[1], int8[1], "silu"),
        "tiles": [packed_linear(int8[:1]), packed_linear([matrix(40, dtype=torch.bfloat16)])],
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    write_packed(path, KEY, layers())
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    return path


def test_layers_come_back_from_a_file(path: Path) -> None:
    given, x = layers(), matrix(5)
    with PackedFile(path, KEY) as file:
        assert torch.equal(file.linear("a.mixed")(x), given["a.mixed"](x))
        for place in ("a.fused", "a.plain"):
            layer = file.gated(place, "silu")
            assert isinstance(layer, GatedLinear)
            assert layer.fused == (place == "a.fused")
            assert layer.out_features == given[place].out_features
            assert torch.equal(layer(x), given[place](x))
        tiles = file.head("tiles")
    assert [tile.out_features for tile in tiles] == [64, 40]
    assert torch.equal(tiles[0](x), given["tiles"][0](x))
    other = path.with_name("other")
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode, "others on the machine may not read it"


def read_all(path: Path, key: str = KEY) -> None:
    with PackedFile(path, key) as file:
        for place in ("a.mixed", "a.fused", "a.plain"):
            file.gated(place, "silu")
        file.head("tiles")


def test_every_byte_counts(path: Path) -> None:
    whole = path.read_bytes()
    data = 8 + struct.unpack("<Q", whole[:8])[0]
    offsets = {name: about["data_offsets"] for name, about in json.loads(whole[8:data]).items() if name[0] != "_"}
    for name, (begin, end) in offsets.items():
        at = data + (begin + end) // 2
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(
            DamagedFile, match=rf"model\.safetensors: the checksum of tensor {name.removesuffix('.scale')}"
        ):
            read_all(path)
    for at in range(0, data, 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with suppress(DamagedFile):
            read_all(path)
            assert whole[at] in b" \n", f"a change of byte {at} went by: {whole[at - 20 : at + 20]!r}"
    path.write_bytes(whole)
    read_all(path)


def test_a_file_that_is_cut_off_or_of_another_model_is_damaged(path: Path) -> None:
    with pytest.raises(DamagedFile, match="of another model"):
        read_all(path, "f" * 16)
    whole = path.read_bytes()
    for size in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedFile, match=r"model\.safetensors"):
            read_all(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DamagedFile, match=r"model\.safetensors"):
        read_all(path)


def test_a_file_that_shrinks_while_it_is_read_is_damaged(path: Path) -> None:
    with PackedFile(path, KEY) as file:
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(DamagedFile, match="the file ends inside tensor"):
            list(map(file._part, file._parts))


def test_nothing_is_left_where_a_file_cannot_be_written(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"the one before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises((OSError, SafetensorError), match="too large"):
            write_packed(path, KEY, layers())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"the one before"


def test_what_killed_processes_left_is_removed_but_not_what_others_write_now(path: Path) -> None:
    left, written_now, another = (
        path.with_name(name)
        for name in (f"{path.name}.0000.unfinished", f"{path.name}.1111.unfinished", "b.unfinished")
    )
    for file in (left, written_now, another):
        file.touch()
    for file in (left, another):
        os.utime(file, (0, 0))
    write_packed(path, KEY, {"a": PackedLinear([_C.DenseWeight(matrix())])})
    assert {file.name for file in path.parent.glob("*.unfinished")} == {written_now.name, another.name}
