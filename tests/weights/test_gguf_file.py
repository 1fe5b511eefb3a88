"""Damaged and hostile GGUF files: each one is refused by name and place, none is believed."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from branchwise.errors import CheckpointError
from branchwise.weights.gguf_file import GgufFile, read_gguf
from weights.samples import finish

HUGE = (1 << 64) - 1


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def entry(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def tensor(name: str = "t", dims: Sequence[int] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def build(
    entries: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: int = 64,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    n_tensors, n_entries = counts or (len(tensors), len(entries))
    head = magic + struct.pack("<IQQ", version, n_tensors, n_entries) + b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


def parse(path: Path, data: bytes) -> GgufFile:
    path.write_bytes(data)
    return read_gguf(path)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the magic number needs 4 bytes, 0 are left"),
    "another format": (build(magic=b"PK\3\4"), "expected a GGUF file"),
    "version 1": (build(version=1), "version 1 is unknown"),
    "big-endian": (build(version=3 << 24), "big-endian"),
    "huge tensor count": (build(counts=(HUGE, 0)), f"{HUGE} tensors cannot fit"),
    "huge entry count": (build(counts=(0, HUGE)), f"{HUGE} metadata entries cannot fit"),
    "count past the end": (build(counts=(0, 6)), "6 metadata entries cannot fit into the 72 bytes left"),
    "huge key": (build(counts=(0, 1), data=64)[:24] + struct.pack("<Q", HUGE) + bytes(64), "a metadata key needs"),
    "huge string": (build([entry("k", 8, struct.pack("<Q", 1 << 40))]), r"metadata 'k' needs \d+ bytes"),
    "huge array": (build([entry("k", 9, struct.pack("<IQ", 4, 1 << 60))]), "elements of metadata 'k' cannot fit"),
    "huge string array": (build([entry("k", 9, struct.pack("<IQ", 8, 60))]), "60 elements of metadata 'k' cannot fit"),
    "array past the end": (build([entry("k", 9, struct.pack("<IQ", 4, 60))]), "metadata 'k' needs 240 bytes"),
    "nested array": (build([entry("k", 9, struct.pack("<IQ", 9, 1))]), "unknown value type 9"),
    "unknown value type": (build([entry("k", 77, bytes(8))]), "unknown value type 77"),
    "key twice": (build([entry("k", 0, b"1"), entry("k", 0, b"2")]), "metadata key 'k' appears twice"),
    "key not UTF-8": (build([string(b"\xff") + struct.pack("<IB", 0, 1)]), "not UTF-8"),
    "tensor twice": (build(tensors=[tensor("a"), tensor("a", offset=32)]), "tensor 'a' appears twice"),
    "rank 0": (build(tensors=[tensor(dims=()) + bytes(8)]), "rank 0"),
    "rank 5": (build(tensors=[tensor(dims=(1, 1, 1, 1, 1))]), "rank 5"),
    "huge rank": (build(tensors=[string("t") + struct.pack("<I", 1 << 31) + bytes(32)]), "rank 2147483648"),
    "dimension 0": (build(tensors=[tensor(dims=(4, 0))]), "shape"),
    "shape overflows 64 bits": (build(tensors=[tensor(dims=(1 << 33, 1 << 33))]), "past the end"),
    "broken block": (build(tensors=[tensor(dims=(48,), kind=8)]), "whole blocks of 32"),
    "unknown type": (build(tensors=[tensor(kind=250)]), "'t' has the unknown type 250"),
    "unsupported type": (build(tensors=[tensor(dims=(256,), kind=23)]), "stored as IQ4_XS, which is not supported"),
    "integer tensor": (build(tensors=[tensor(kind=26)]), "stored as I32"),
    "offset past the end": (build(tensors=[tensor(offset=64)]), "past the end"),
    "huge offset": (build(tensors=[tensor(offset=HUGE)]), "past the end"),
    "data past the end": (build(tensors=[tensor(dims=(17,))]), "past the end"),
    "overlap": (build(tensors=[tensor("a", (9,)), tensor("b", offset=32)]), "overlap: a, b"),
    "alignment 0": (build([entry("general.alignment", 4, bytes(4))]), "power of two"),
    "alignment 48": (build([entry("general.alignment", 4, struct.pack("<I", 48))]), "power of two"),
    "alignment is text": (build([entry("general.alignment", 8, string("32"))]), "power of two"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file(case: str, tmp_path: Path) -> None:
    data, message = HOSTILE[case]
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=message) as caught:
            parse(tmp_path / "x.gguf", data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert str(tmp_path / "x.gguf") in str(caught.value)


def test_many_arrays_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("branchwise.weights.gguf_file._MAX_ELEMENTS", 25)
    arrays = [entry(f"k{number}", 9, struct.pack("<IQ", 0, 10) + bytes(10)) for number in range(3)]
    assert parse(tmp_path / "x.gguf", build(arrays[:2])).metadata["k1"] == [0] * 10
    with pytest.raises(CheckpointError, match=r"'k2' has 10 elements, more than .*, or 25 with those before it"):
        parse(tmp_path / "x.gguf", build(arrays))


def test_array_longer_than_any_vocabulary(tmp_path: Path) -> None:
    n = (1 << 24) + 1
    data = build([entry("k", 9, struct.pack("<IQ", 0, n))], data=n)
    with pytest.raises(CheckpointError, match=f"{n} elements, more than"):
        parse(tmp_path / "x.gguf", data)


VALUES: dict[str, Any] = {
    "u8": (gguf.GGUFValueType.UINT8, 200),
    "i8": (gguf.GGUFValueType.INT8, -3),
    "u16": (gguf.GGUFValueType.UINT16, 60000),
    "i16": (gguf.GGUFValueType.INT16, -300),
    "u32": (gguf.GGUFValueType.UINT32, 1 << 31),
    "i32": (gguf.GGUFValueType.INT32, -5),
    "u64": (gguf.GGUFValueType.UINT64, 1 << 63),
    "i64": (gguf.GGUFValueType.INT64, -(1 << 40)),
    "f32": (gguf.GGUFValueType.FLOAT32, 0.5),
    "f64": (gguf.GGUFValueType.FLOAT64, 0.1),
    "yes": (gguf.GGUFValueType.BOOL, True),
    "text": (gguf.GGUFValueType.STRING, "größer"),
    "words": (gguf.GGUFValueType.ARRAY, ["a", "", "ü"]),
    "numbers": (gguf.GGUFValueType.ARRAY, [1, -2, 3]),
    "flags": (gguf.GGUFValueType.ARRAY, [True, False]),
}


def sample(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for key, (kind, value) in VALUES.items():
        writer.add_key_value(key, value, kind)
    writer.add_tensor("a", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("b", np.arange(64, dtype=np.float16).reshape(2, 32))
    writer.add_tensor("c", np.zeros((2, 34), dtype=np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    return finish(writer, path)


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    file = read_gguf(sample(tmp_path / "x.gguf"))
    assert file.metadata == {"general.architecture": "llama"} | {key: value for key, (_, value) in VALUES.items()}
    assert {type(file.metadata[key]) for key in ("yes", "u8", "f32")} == {bool, int, float}
    reader = gguf.GGUFReader(file.path)
    assert [t.name for t in reader.tensors] == list(file.tensors) == ["a", "b", "c"]
    for known in reader.tensors:
        ours = file.tensors[known.name]
        assert ours.shape == tuple(reversed(known.shape.tolist()))
        assert (ours.type, ours.offset, ours.n_bytes) == (known.tensor_type, known.data_offset, known.n_bytes)


def test_truncated_at_every_byte(tmp_path: Path) -> None:
    path = sample(tmp_path / "x.gguf")
    whole = path.read_bytes()
    end = max(t.offset + t.n_bytes for t in read_gguf(path).tensors.values())
    for length in range(end):
        with pytest.raises(CheckpointError, match=f"of {length}\\)"):
            parse(tmp_path / "cut.gguf", whole[:length])
    parse(tmp_path / "cut.gguf", whole[:end])  # padding after the last tensor may be absent


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes_never_surprise(data: st.DataObject, tmp_path: Path) -> None:
    whole = bytearray(sample(tmp_path / "x.gguf").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        file = parse(tmp_path / "flipped.gguf", bytes(whole))
    except CheckpointError:
        return
    assert all(t.offset + t.n_bytes <= len(whole) for t in file.tensors.values())
