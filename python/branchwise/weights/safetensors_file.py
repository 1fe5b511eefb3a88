"""A Hugging Face folder as a checkpoint: config.json and safetensors, one file or sharded, headers checked first.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from branchwise.errors import CheckpointError
from branchwise.weights.checkpoint import some, unknown_tensor

if TYPE_CHECKING:
    from branchwise.text.tokenizer import Tokenizer
    from branchwise.weights.blocks import BlockFormat, Blocks

_ITEM_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2}
_ITEM_BYTES |= {"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8}
_LOADABLE = ("F32", "F16", "BF16", "F64")
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: `begin` and `end` are bytes in the data section of file `path`."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsCheckpoint:
    """A model in a Hugging Face folder. See `Checkpoint`."""

    def __init__(self, folder: Path, source: str | None = None) -> None:
        self.source = source or str(folder)
        self._folder = folder
        self.config: dict[str, Any] = _read_json(folder / "config.json")
        self._tensors = _read_folder(folder)

    def files(self) -> list[Path]:
        """config.json and the files of weights."""
        return [self._folder / "config.json", *sorted({tensor.path for tensor in self._tensors.values()})]

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor. Raises CheckpointError for an unknown name."""
        return self._tensor(name).shape

    def load(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Copy one tensor out of its memory-mapped file. Raises CheckpointError, also for integer and 8-bit types."""
        return self._load(name, dtype, slice(None))

    def load_rows(self, name: str, begin: int, end: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows [begin, end) of the embedding or lm_head. Raises CheckpointError."""
        return self._load(name, dtype, slice(begin, end))

    def _load(self, name: str, dtype: torch.dtype, rows: slice) -> torch.Tensor:
        stored = self._tensor(name)
        if stored.dtype not in _LOADABLE:
            raise CheckpointError(
                f"{stored.path}: tensor {name!r} is stored as {stored.dtype}, expected one of {', '.join(_LOADABLE)}. "
                "Use the unquantised model, or a GGUF file."
            )
        try:
            # Opened per tensor: closing drops the pages that were read, so they never add up to the whole file.
            with safe_open(stored.path, framework="pt") as file:
                whole = rows == slice(None)
                part = file.get_tensor(name) if whole else file.get_slice(name)[rows]
                return part.to(dtype, copy=True)  # type: ignore[no-any-return]
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{stored.path}: cannot read tensor {name!r}: {error}. Download it again.") from error

    def block_format(self, name: str) -> BlockFormat | None:
        """None: what quantised folders hold is refused. Raises CheckpointError for an unknown name."""
        self._tensor(name)
        return None

    def load_blocks(self, name: str, begin: int, end: int) -> Blocks:
        """Never called: no tensor has a block format."""
        raise CheckpointError(f"{self.source}: tensor {name!r} is not stored in blocks.")

    def tokenizer(self) -> Tokenizer:
        """Build the tokenizer from the folder. Raises TokenizerError."""
        from branchwise.text.tokenizer import Tokenizer

        return Tokenizer.from_folder(self._folder)

    def _tensor(self, name: str) -> StoredTensor:
        if name not in self._tensors:
            raise unknown_tensor(self.source, name, self._tensors)
        return self._tensors[name]


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read and check the header of one safetensors file; the data is not touched.

    Tensors must fill the data section exactly: no gap, overlap or byte outside the file. Raises CheckpointError.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            raise _damaged(path, f"{size} bytes are too few for a header")
        n_bytes = struct.unpack("<Q", file.read(8))[0]
        if n_bytes > min(size - 8, _MAX_HEADER_BYTES):
            raise _damaged(path, f"the header claims {n_bytes} bytes, the file has {size - 8} after its length")
        header = _parse_json(path, file.read(n_bytes))
    header.pop("__metadata__", None)
    tensors = {name: _stored_tensor(path, name, entry) for name, entry in header.items()}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != end:
            problem = "overlaps the one before it" if tensor.begin < end else "leaves a gap before it"
            raise _damaged(path, f"tensor {name!r} at {tensor.begin} {problem}, which ends at {end}")
        end = tensor.end
    if end != size - 8 - n_bytes:
        raise _damaged(path, f"tensors end at byte {end} of the data, the file has {size - 8 - n_bytes}")
    return tensors


def _stored_tensor(path: Path, name: str, entry: Any) -> StoredTensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"tensor {name!r} needs dtype, shape and data_offsets, found {str(entry)[:80]}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise _damaged(path, f"tensor {name!r} has the unknown dtype {str(dtype)[:80]!r}")
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
            raise _damaged(path, f"{what} of tensor {name!r} must be a list of natural numbers")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise _damaged(path, f"tensor {name!r}, {dtype} {shape}, does not fit its data_offsets {offsets}")
    return StoredTensor(path, dtype, tuple(shape), *offsets)


def _read_folder(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a folder: `model.safetensors`, or the shards that `model.safetensors.index.json` lists."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return read_header(single)
    if index.is_file():
        return _read_shards(index)
    if list(folder.glob("*.bin")) or list(folder.glob("*.pt")):
        raise CheckpointError(
            f"{folder} holds pickled weights only, which can run code when loaded and are never read. "
            "Use a revision of the model with safetensors, or convert it: model.save_pretrained(folder)."
        )
    files = [path.name for path in folder.glob("*.gguf")]
    hint = f" To open a GGUF file, give its own path: {some(files)}." if files else ""
    raise CheckpointError(f"{folder}: neither {single.name} nor {index.name} is there.{hint}")


def _read_shards(index: Path) -> dict[str, StoredTensor]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise _damaged(index, "weight_map must map tensor names to shard files")
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise _damaged(index, f"shard {shard!r} must be the name of a .safetensors file in the same folder")
        if not (index.parent / shard).is_file():
            raise CheckpointError(f"{index}: shard {shard} is missing. Download the model again.")
        found = read_header(index.parent / shard)
        _same(index, f"are listed in {shard} but are not there", _listed(weight_map, shard) - set(found))
        _same(index, "are stored in two shards", set(found) & set(tensors))
        _same(index, f"are stored in {shard} but not listed there", set(found) - _listed(weight_map, shard))
        tensors |= found
    return tensors


def _listed(weight_map: dict[str, str], shard: str) -> set[str]:
    return {name for name, file in weight_map.items() if file == shard}


def _same(index: Path, problem: str, names: set[str]) -> None:
    if names:
        raise CheckpointError(f"{index}: tensors {problem}: {some(names)}. Download the model again.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return _parse_json(path, path.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}. A model folder needs {path.name} beside its weights."
        ) from error


def _parse_json(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise _damaged(path, f"expected a JSON object, found {str(value)[:80]}")
    return value


def _no_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise ValueError(f"key {key!r} appears twice")
        out[key] = value
    return out


def _damaged(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path}: {problem}. The file is truncated or damaged: download it again.")
