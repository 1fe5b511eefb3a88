"""The header of one safetensors file, checked before it is believed.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from branchwise.weights.json_file import damaged, parse_json
from branchwise.weights.regular import open_regular

_ITEM_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2}
_ITEM_BYTES |= {"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8}
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_MAX_RANK = 8  # no weight has more; products of hostile shapes stay small


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: `begin` and `end` are bytes in the data section of file `path`, which calls it `name`."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read and check the header of one safetensors file; the data is not touched.

    Tensors must fill the data section exactly: no gap, overlap or byte outside the file. Raises CheckpointError.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            raise damaged(path, f"{size} bytes are too few for a header")
        n_bytes = struct.unpack("<Q", file.read(8))[0]
        if n_bytes > min(size - 8, _MAX_HEADER_BYTES):
            raise damaged(path, f"the header claims {n_bytes} bytes, the file has {size - 8} after its length")
        header = parse_json(path, file.read(n_bytes))
    header.pop("__metadata__", None)
    tensors = {name: _stored_tensor(path, name, entry) for name, entry in header.items()}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != end:
            problem = "overlaps the one before it" if tensor.begin < end else "leaves a gap before it"
            raise damaged(path, f"tensor {name!r} at {tensor.begin} {problem}, which ends at {end}")
        end = tensor.end
    if end != size - 8 - n_bytes:
        raise damaged(path, f"tensors end at byte {end} of the data, the file has {size - 8 - n_bytes}")
    return tensors


def _stored_tensor(path: Path, name: str, entry: Any) -> StoredTensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise damaged(path, f"tensor {name!r} needs dtype, shape and data_offsets, found {str(entry)[:80]}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise damaged(path, f"tensor {name!r} has the unknown dtype {str(dtype)[:80]!r}")
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
            raise damaged(path, f"{what} of tensor {name!r} must be a list of natural numbers")
        if len(numbers) > _MAX_RANK:
            raise damaged(path, f"{what} of tensor {name!r} has {len(numbers)} numbers, at most {_MAX_RANK} can be")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise damaged(path, f"tensor {name!r}, {dtype} {shape}, does not fit its data_offsets {offsets}")
    return StoredTensor(path, name, dtype, tuple(shape), *offsets)
