"""The header of a GGUF file, read with every count and offset checked against the file before it is used.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import itertools
import math
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from branchwise.errors import CheckpointError
from branchwise.weights.checkpoint import some
from branchwise.weights.regular import open_regular

TENSOR_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
"""Storage types that can be loaded."""

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
# Value types of metadata by id: the scalars as NumPy dtypes; 8 is a string and 9 an array.
_SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "|u1", 10: "<u8", 11: "<i8"}
_SCALARS |= {12: "<f8"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_MIN_ENTRY_BYTES = 13  # key length, key type and one byte of value
_MIN_TENSOR_BYTES = 32  # name length, rank, one dimension, type, offset
_MAX_ARRAY = 1 << 22  # 8 times the merges of the largest vocabulary: keeps Python lists of a hostile file small
_MAX_ELEMENTS = 4 * _MAX_ARRAY  # of all arrays
_MAX_RANK = 4
_DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where a tensor lies. `shape` is row-major (GGUF stores it reversed); `offset` counts from the start of `path`."""

    path: Path
    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A checked header: metadata as plain Python values, tensors by GGUF name; `parts`: the files of the model."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]
    parts: tuple[Path, ...]


def read_gguf(path: Path) -> GgufFile:
    """Read and check the header of a GGUF file (version 2 or 3, little-endian); no tensor data is touched.

    Raises CheckpointError that says what is wrong and at which byte.
    """
    with open_regular(path) as file:
        cursor = _Cursor(path, file)
        n_tensors, n_entries = _read_start(cursor)
        metadata: dict[str, Any] = {}
        for _ in range(n_entries):
            key = cursor.string("a metadata key")
            if key in metadata:
                raise cursor.error(f"metadata key {key!r} appears twice")
            metadata[key] = _read_value(cursor, f"metadata {key!r}")
        entries = [_read_tensor_entry(cursor) for _ in range(n_tensors)]
        data_begin = _data_begin(cursor, metadata)
        return GgufFile(path, metadata, _place(cursor, entries, data_begin), (path,))


def read_bytes(tensor: GgufTensor, begin: int, end: int) -> NDArray[np.uint8]:
    """Rows [begin, end) as they are stored. Raises CheckpointError when the file cannot be read or ends too soon."""
    block, block_bytes = GGML_QUANT_SIZES[tensor.type]
    row_bytes = math.prod(tensor.shape[1:]) // block * block_bytes
    raw = np.empty((end - begin) * row_bytes, dtype=np.uint8)
    try:
        with tensor.path.open("rb") as file:
            file.seek(tensor.offset + begin * row_bytes)
            if file.readinto(raw.data) != len(raw):
                raise too_short(tensor)
    except OSError as error:
        raise unreadable(tensor, error) from error
    return raw


def too_short(tensor: GgufTensor) -> CheckpointError:
    """The error for a file that ends inside a tensor."""
    return CheckpointError(f"{tensor.path}: the file ends inside tensor {tensor.name!r}. Download it again.")


def unreadable(tensor: GgufTensor, error: OSError) -> CheckpointError:
    """The error for a file that the system cannot read."""
    return CheckpointError(f"{tensor.path}: cannot read tensor {tensor.name!r}: {error.strerror}.")


class _Cursor:
    """Reads forward through the header; refuses to read past the end of the file before allocating anything."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file, self.position = path, file, 0
        self.elements = 0  # of the arrays that were read
        self.size = os.fstat(file.fileno()).st_size

    def error(self, problem: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: {problem} (at byte {self.position} of {self.size}). "
            "The file is truncated, damaged or of an unknown version: download or convert it again."
        )

    def take(self, n_bytes: int, what: str) -> bytes:
        if n_bytes > self.size - self.position:
            raise self.error(f"{what} needs {n_bytes} bytes, {self.size - self.position} are left")
        data = self.file.read(n_bytes)
        if len(data) != n_bytes:  # the file shrank while it was read
            raise self.error(f"{what} ended after {len(data)} of {n_bytes} bytes")
        self.position += n_bytes
        return data

    def u32(self, what: str) -> int:
        return int(_U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack(self.take(8, what))[0])

    def string(self, what: str) -> str:
        data = self.take(self.u64(f"the length of {what}"), what)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8: {error.reason}") from error

    def count(self, min_bytes: int, what: str) -> int:
        n = self.u64(f"the number of {what}")
        if n > (self.size - self.position) // min_bytes:
            raise self.error(f"{n} {what} cannot fit into the {self.size - self.position} bytes left")
        return n


def _read_start(cursor: _Cursor) -> tuple[int, int]:
    """Check magic and version; return the numbers of tensors and of metadata entries."""
    if (magic := cursor.take(4, "the magic number")) != b"GGUF":
        raise cursor.error(f"expected a GGUF file, which starts with b'GGUF', found {magic!r}")
    version = cursor.u32("the version")
    if version not in (2, 3):
        hint = ": big-endian files are not supported" if version & 0xFFFF == 0 else ""
        raise cursor.error(f"GGUF version {version} is unknown (2 and 3 are){hint}")
    return cursor.count(_MIN_TENSOR_BYTES, "tensors"), cursor.count(_MIN_ENTRY_BYTES, "metadata entries")


def _read_value(cursor: _Cursor, what: str) -> Any:
    kind = cursor.u32(f"the type of {what}")
    if kind == _STRING:
        return cursor.string(what)
    if kind != _ARRAY:
        return _read_scalars(cursor, kind, 1, what)[0]
    kind = cursor.u32(f"the element type of {what}")
    n = cursor.count(8 if kind == _STRING else 1, f"elements of {what}")
    cursor.elements += n
    if n > _MAX_ARRAY or cursor.elements > _MAX_ELEMENTS:
        raise cursor.error(f"{what} has {n} elements, more than {_MAX_ARRAY}, or {_MAX_ELEMENTS} with those before it")
    if kind == _STRING:
        return [cursor.string(what) for _ in range(n)]
    return _read_scalars(cursor, kind, n, what)


def _read_scalars(cursor: _Cursor, kind: int, n: int, what: str) -> list[Any]:
    if kind not in _SCALARS:
        raise cursor.error(f"{what} has the unknown value type {kind}")
    dtype = np.dtype(_SCALARS[kind])
    values = np.frombuffer(cursor.take(n * dtype.itemsize, what), dtype)
    return [bool(value) for value in values] if kind == _BOOL else list(values.tolist())


def _read_tensor_entry(cursor: _Cursor) -> GgufTensor:
    """One tensor entry, its offset still relative to the data section."""
    name = cursor.string("a tensor name")
    what = f"tensor {name!r}"
    rank = cursor.u32(f"the rank of {what}")
    if not 1 <= rank <= _MAX_RANK:
        raise cursor.error(f"{what} has rank {rank}, expected 1 to {_MAX_RANK}")
    dims = struct.unpack(f"<{rank}Q", cursor.take(8 * rank, f"the shape of {what}"))
    kind = _tensor_type(cursor, what)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if min(dims) == 0 or dims[0] % block:
        raise cursor.error(f"{what} of type {kind.name} has shape {dims}: its rows must be whole blocks of {block}")
    n_bytes = math.prod(dims) // block * block_bytes
    return GgufTensor(cursor.path, name, dims[::-1], kind, cursor.u64(f"the offset of {what}"), n_bytes)


def _tensor_type(cursor: _Cursor, what: str) -> GGMLQuantizationType:
    number = cursor.u32(f"the type of {what}")
    known = {int(kind): kind for kind in GGMLQuantizationType}
    if number not in known:
        raise cursor.error(f"{what} has the unknown type {number}")
    if known[number].name not in TENSOR_TYPES:
        raise CheckpointError(
            f"{cursor.path}: {what} is stored as {known[number].name}, which is not supported. "
            f"Use a file quantised to one of {', '.join(TENSOR_TYPES)}, e.g. a Q4_K_M or Q8_0 file."
        )
    return known[number]


def _data_begin(cursor: _Cursor, metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise cursor.error(f"general.alignment is {alignment!r}, expected a power of two")
    return -(-cursor.position // alignment) * alignment


def _place(cursor: _Cursor, entries: Iterable[GgufTensor], data_begin: int) -> dict[str, GgufTensor]:
    """Turn relative offsets into file offsets and check that tensors are named once, inside the file, and disjoint."""
    tensors: dict[str, GgufTensor] = {}
    for entry in entries:
        tensor = replace(entry, offset=data_begin + entry.offset)
        if tensor.name in tensors:
            raise cursor.error(f"tensor {tensor.name!r} appears twice")
        if tensor.offset + tensor.n_bytes > cursor.size:
            raise cursor.error(
                f"tensor {tensor.name!r} of shape {tensor.shape} and type {tensor.type.name} needs bytes "
                f"{tensor.offset} to {tensor.offset + tensor.n_bytes}, past the end"
            )
        tensors[tensor.name] = tensor
    ordered = sorted(tensors.values(), key=lambda tensor: tensor.offset)
    for before, after in itertools.pairwise(ordered):
        if before.offset + before.n_bytes > after.offset:
            raise cursor.error(f"tensors overlap: {some([before.name, after.name])}")
    return tensors
