"""Reads a GGUF tensor straight into a torch dtype, a chunk at a time, so that no second copy of it is ever held."""

from __future__ import annotations

import math

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES

from branchwise.weights.gguf_blocks import dense_values
from branchwise.weights.gguf_file import GgufTensor, too_short, unreadable

CHUNK = 1 << 15
"""Values converted at once: small enough for the L2 cache and for torch to copy them without waking its threads."""


def read_tensor(tensor: GgufTensor, dtype: torch.dtype) -> torch.Tensor:
    """Read and dequantise one tensor; values are computed in fp32 and rounded once to `dtype`.

    Returns a contiguous tensor of `tensor.shape`. Raises CheckpointError when the file cannot be read or ends too soon.
    """
    return read_rows(tensor, 0, tensor.shape[0], dtype)


def read_rows(tensor: GgufTensor, begin: int, end: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows [begin, end) of a tensor, as `read_tensor` reads them."""
    out = torch.empty((end - begin, *tensor.shape[1:]), dtype=dtype)
    try:
        _read_into(out.view(-1), tensor, first=begin * math.prod(tensor.shape[1:]))
    except OSError as error:
        raise unreadable(tensor, error) from error
    return out


def _read_into(flat: torch.Tensor, tensor: GgufTensor, first: int) -> None:
    block, block_bytes = GGML_QUANT_SIZES[tensor.type]
    assert CHUNK % block == 0
    buffer = np.empty(CHUNK // block * block_bytes, dtype=np.uint8)
    # A damaged file may hold infinite scales: those become inf and nan, without a warning per chunk.
    with tensor.path.open("rb") as file, np.errstate(over="ignore", invalid="ignore"):
        file.seek(tensor.offset + first // block * block_bytes)
        for begin in range(0, len(flat), CHUNK):
            target = flat[begin : begin + CHUNK]
            raw = buffer[: len(target) // block * block_bytes]
            if file.readinto(raw.data) != len(raw):
                raise too_short(tensor)
            target.copy_(torch.from_numpy(dense_values(raw, tensor.type)))
