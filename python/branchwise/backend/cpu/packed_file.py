"""A file of packed weights: safetensors, every tensor under the place it belongs to, with a checksum.

A part of a layer is a tensor of bytes, its panels, as `_C` keeps them; one scale an output is a tensor beside them.
"""

from __future__ import annotations

import json
import os
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from branchwise import _C
from branchwise.backend.cpu.linear import GatedLinear, Packed, PackedLinear
from branchwise.errors import CheckpointError
from branchwise.weights.read_ahead import ReadAhead
from branchwise.weights.safetensors_file import read_header

STEP = 1 << 20  # bytes read at once, then summed up while they are in cache
ABANDONED_AFTER = 3600  # seconds: nobody writes that long
FUSED, SCALE = "fused", ".scale"


class DamagedFile(Exception):
    """The file cannot be used; the message names it, and the tensor where it is one."""


class PackedFile:
    """The layers of one model, read back as they were packed; a context manager.

    Parts are read in threads, in the order in which they were written. DamagedFile, also from every method: the file
    is truncated, a checksum differs, or the file was made from something else than `key` tells.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._parts = _read_parts(path, key)
        try:
            self._tensors = read_header(path)
            self._file = os.open(path, os.O_RDONLY)
        except (CheckpointError, OSError) as error:
            raise DamagedFile(f"{path} cannot be read: {error}") from error
        size = max((tensor.end for tensor in self._tensors.values()), default=0)
        self._begin = os.fstat(self._file).st_size - size  # of the data
        self._read = ReadAhead(self._part, self._parts)

    def __enter__(self) -> PackedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._read.__exit__(kind, error, trace)
        os.close(self._file)

    def linear(self, place: str, bias: Tensor | None = None) -> PackedLinear:
        """The layer of this place."""
        return PackedLinear([self._read(name) for name in self._names(place)], bias)

    def gated(self, place: str, activation: str) -> GatedLinear:
        """The gated layer of this place."""
        fused = f"{place}.{FUSED}"
        return GatedLinear(self._read(fused) if fused in self._parts else self.linear(place), activation)

    def head(self, place: str) -> list[PackedLinear]:
        """The tiles of an lm_head."""
        begin = f"{place}."
        count = len({name[len(begin) :].split(".")[0] for name in self._parts if name.startswith(begin)})
        return [self.linear(f"{place}.{index}") for index in range(count)]

    def _names(self, place: str) -> Iterator[str]:
        index = 0
        while (name := f"{place}.{index}") in self._parts:
            yield name
            index += 1
        if index == 0:
            raise DamagedFile(f"{self._path}: tensor {place}.0 is missing")

    def _part(self, name: str) -> Packed:
        about = self._parts[name]
        panels = self._bytes(name, about["checksum"])
        shape = (about["out"], about["in"])
        try:
            if "dtype" in about:
                return _C.DenseWeight.from_panels(panels, shape, about["dtype"], about["twelve_bit"])
            whole = about["scale_checksum"]
            scale = None if whole is None else self._bytes(name + SCALE, whole).view(np.float32)
            return _C.QuantisedWeight.from_panels(panels, scale, shape, *about["format"])
        except ValueError as error:
            raise DamagedFile(f"{self._path}: tensor {name}: {error}") from error

    def _bytes(self, name: str, checksum: int) -> NDArray[np.uint8]:
        """The bytes of a tensor, in memory that is streamed through."""
        where = self._tensors.get(name)
        if where is None or where.begin == where.end:
            raise DamagedFile(f"{self._path}: tensor {name} is missing")
        room = _C.large_memory(where.end - where.begin)
        found = at = 0
        while at < len(room):
            step = room[at : at + STEP]
            try:
                count = os.preadv(self._file, [step.data], self._begin + where.begin + at)
            except OSError as error:
                raise DamagedFile(f"{self._path}: tensor {name} cannot be read: {error.strerror}") from error
            if count == 0:
                raise DamagedFile(f"{self._path}: the file ends inside tensor {name}")
            found = zlib.crc32(step[:count].data, found)
            at += count
        if found != checksum:
            raise DamagedFile(f"{self._path}: the checksum of tensor {name} is {found:08x}, expected {checksum:08x}")
        room.flags.writeable = False
        return room


def _read_parts(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """What the file says of its parts, by name."""
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise DamagedFile(f"{path} cannot be read: {error}") from error
    text = metadata.get("parts", "")
    if metadata.get("key") != key or metadata.get("checksum") != str(zlib.crc32(text.encode())):
        raise DamagedFile(f"{path}: its header is damaged, or of another model")
    parts: dict[str, dict[str, Any]] = json.loads(text)
    return parts


def write_packed(path: Path, key: str, layers: Mapping[str, Any]) -> None:
    """Write the layers by place: all of them or, where an error is raised, nothing.

    OSError, SafetensorError: it cannot be written. Layers are not copied, where the safetensors library does not do so.
    """
    tensors, parts = {}, {}
    for name, packed in _named(layers):
        about: dict[str, Any] = {"out": packed.shape[0], "in": packed.shape[1]}
        tensors[name] = packed.panels
        if isinstance(packed, _C.DenseWeight):
            about["dtype"], about["twelve_bit"] = packed.dtype, packed.twelve_bit
        else:
            about["format"] = packed.format
            if packed.column_scale is not None:
                tensors[name + SCALE] = packed.column_scale.view(np.uint8)
        parts[name] = about
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        checksums = dict(zip(tensors, pool.map(zlib.crc32, tensors.values()), strict=True))
    for name, about in parts.items():
        about["checksum"] = checksums[name]
        about["scale_checksum"] = checksums.get(name + SCALE)
    text = json.dumps(parts)
    metadata = {"key": key, "parts": text, "checksum": str(zlib.crc32(text.encode()))}
    _remove_abandoned(path)
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.unfinished")
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode  # the library makes files for one user alone
        save_file(tensors, unfinished, metadata)
        unfinished.chmod(mode)
        os.replace(unfinished, path)
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """What processes that were killed while writing have left of this file."""
    for left in path.parent.glob(f"{path.name}.*.unfinished"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_AFTER:
                left.unlink()


def _named(layers: Mapping[str, Any]) -> Iterable[tuple[str, Packed]]:
    single: dict[str, Any] = {}
    for place, layer in layers.items():
        single |= {f"{place}.{i}": tile for i, tile in enumerate(layer)} if isinstance(layer, list) else {place: layer}
    for place, layer in single.items():
        if isinstance(layer, GatedLinear) and layer.fused:
            yield f"{place}.{FUSED}", layer.packed[0]
        else:
            yield from ((f"{place}.{index}", packed) for index, packed in enumerate(layer.packed))
