"""Reads a GGUF tensor straight into a torch dtype, a chunk at a time, so that no second copy of it is ever held."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES
from gguf.quants import dequantize
from numpy.typing import NDArray

from branchwise.errors import CheckpointError
from branchwise.weights.gguf_file import GgufTensor

CHUNK = 1 << 15
"""Values converted at once: small enough for the L2 cache and for torch to copy them without waking its threads."""


def read_tensor(path: Path, tensor: GgufTensor, dtype: torch.dtype) -> torch.Tensor:
    """Read and dequantise one tensor; values are computed in fp32 and rounded once to `dtype`.

    Returns a contiguous tensor of `tensor.shape`. Raises CheckpointError when the file cannot be read or ends too soon.
    """
    return read_rows(path, tensor, 0, tensor.shape[0], dtype)


def read_rows(path: Path, tensor: GgufTensor, begin: int, end: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows [begin, end) of a tensor, as `read_tensor` reads them."""
    out = torch.empty((end - begin, *tensor.shape[1:]), dtype=dtype)
    try:
        _read_into(out.view(-1), path, tensor, first=begin * math.prod(tensor.shape[1:]))
    except OSError as error:
        raise _unreadable(path, tensor, error) from error
    return out


def read_bytes(path: Path, tensor: GgufTensor, begin: int, end: int) -> NDArray[np.uint8]:
    """Rows [begin, end) as they are stored. Raises CheckpointError as `read_tensor` does."""
    block, block_bytes = GGML_QUANT_SIZES[tensor.type]
    row_bytes = math.prod(tensor.shape[1:]) // block * block_bytes
    raw = np.empty((end - begin) * row_bytes, dtype=np.uint8)
    try:
        with path.open("rb") as file:
            file.seek(tensor.offset + begin * row_bytes)
            if file.readinto(raw.data) != len(raw):
                raise _too_short(path, tensor)
    except OSError as error:
        raise _unreadable(path, tensor, error) from error
    return raw


def _too_short(path: Path, tensor: GgufTensor) -> CheckpointError:
    return CheckpointError(f"{path}: the file ends inside tensor {tensor.name!r}. Download it again.")


def _unreadable(path: Path, tensor: GgufTensor, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path}: cannot read tensor {tensor.name!r}: {error.strerror}.")


def _read_into(flat: torch.Tensor, path: Path, tensor: GgufTensor, first: int) -> None:
    block, block_bytes = GGML_QUANT_SIZES[tensor.type]
    assert CHUNK % block == 0
    buffer = np.empty(CHUNK // block * block_bytes, dtype=np.uint8)
    # A damaged file may hold infinite scales: those become inf and nan, without a warning per chunk.
    with path.open("rb") as file, np.errstate(over="ignore", invalid="ignore"):
        file.seek(tensor.offset + first // block * block_bytes)
        for begin in range(0, len(flat), CHUNK):
            target = flat[begin : begin + CHUNK]
            # One wide row: the library's work is per group of rows, and model rows are too short to keep it busy.
            raw = buffer[: len(target) // block * block_bytes]
            if file.readinto(raw.data) != len(raw):
                raise _too_short(path, tensor)
            target.copy_(torch.from_numpy(dequantize(raw[None], tensor.type)[0]))
