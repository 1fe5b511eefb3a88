"""GGUF's quantised types as `Blocks`, the same codes, scales and minima laid out as matrices; and as dense values.

A block of the types "_0" and "_1" has one fp16 scale and one group of 32. In a block of the K types, of 256 weights, a
small integer per group multiplies one of a pair of fp16 numbers: the kernels round that product to fp16.
Layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from branchwise.weights.blocks import BlockFormat, Blocks, Codes, Floats
from branchwise.weights.gguf_file import GgufTensor, read_bytes

Raw = NDArray[np.uint8]  # [blocks, bytes of a block]


_LOW, _FOUR = np.uint8(15), np.uint8(4)


class Unpacked(NamedTuple):
    """codes: [blocks, weights of a block]    scales, minima: [blocks, groups of a block]."""

    codes: Codes
    scales: Floats
    minima: Floats | None = None


def _half(raw: Raw, at: int) -> Floats:
    return np.ascontiguousarray(raw[:, at : at + 2]).view(np.float16).astype(np.float32)


def _nibbles(raw: Raw, at: int, width: int) -> Codes:
    """Runs of `width` bytes, each the low halves of `width` codes and then the high halves: [blocks, codes]."""
    packed = raw[:, at:].reshape(len(raw), -1, 1, width)
    halves = np.concatenate([packed & _LOW, packed >> _FOUR], axis=2)
    return halves.reshape(len(raw), -1)


def _fifth_bits(raw: Raw, at: int) -> Codes:
    codes: Codes = np.unpackbits(raw[:, at : at + 4], axis=1, bitorder="little") << _FOUR
    return codes


def _q4_0(raw: Raw) -> Unpacked:
    return Unpacked(_nibbles(raw, 2, 16), _half(raw, 0))


def _q4_1(raw: Raw) -> Unpacked:
    return Unpacked(_nibbles(raw, 4, 16), _half(raw, 0), _half(raw, 2))


def _q5_0(raw: Raw) -> Unpacked:
    return Unpacked(_nibbles(raw, 6, 16) | _fifth_bits(raw, 2), _half(raw, 0))


def _q5_1(raw: Raw) -> Unpacked:
    return Unpacked(_nibbles(raw, 8, 16) | _fifth_bits(raw, 4), _half(raw, 0), _half(raw, 2))


def _q8_0(raw: Raw) -> Unpacked:
    return Unpacked(raw[:, 2:] ^ np.uint8(128), _half(raw, 0))  # two's complement + 128


def _k_scales(raw: Raw) -> tuple[Floats, Floats]:
    """Scales and minima of the 8 groups of a Q4_K or Q5_K block: 6 bits each, packed into 12 bytes."""
    low, mid, high = raw[:, 4:8], raw[:, 8:12], raw[:, 12:16]
    scales = np.concatenate([low & 63, high & 15 | low >> 6 << 4], axis=1)
    minima = np.concatenate([mid & 63, high >> 4 | mid >> 6 << 4], axis=1)
    return _half(raw, 0) * scales, -_half(raw, 2) * minima


def _q4_k(raw: Raw) -> Unpacked:
    return Unpacked(_nibbles(raw, 16, 32), *_k_scales(raw))


def _q5_k(raw: Raw) -> Unpacked:
    places = np.arange(8, dtype=np.uint8)[:, None]  # bit j of a byte belongs to group j
    fifth = (raw[:, None, 16:48] >> places & np.uint8(1)) << _FOUR
    return Unpacked(_nibbles(raw, 48, 32) | fifth.reshape(len(raw), 256), *_k_scales(raw))


def _q6_k(raw: Raw) -> Unpacked:
    low = _nibbles(raw[:, :128], 0, 64)
    places = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    high = (raw[:, 128:192].reshape(-1, 2, 1, 32) >> places & np.uint8(3)) << _FOUR
    return Unpacked(low | high.reshape(len(raw), 256), _half(raw, 208) * raw[:, 192:208].view(np.int8))


_TYPES: dict[str, tuple[BlockFormat, Callable[[Raw], Unpacked]]] = {
    "Q4_0": (BlockFormat(4, 32, has_minima=False), _q4_0),
    "Q4_1": (BlockFormat(4, 32, has_minima=True), _q4_1),
    "Q5_0": (BlockFormat(5, 32, has_minima=False), _q5_0),
    "Q5_1": (BlockFormat(5, 32, has_minima=True), _q5_1),
    "Q8_0": (BlockFormat(8, 32, has_minima=False), _q8_0),
    "Q4_K": (BlockFormat(4, 32, has_minima=True), _q4_k),
    "Q5_K": (BlockFormat(5, 32, has_minima=True), _q5_k),
    "Q6_K": (BlockFormat(6, 16, has_minima=False), _q6_k),
}


def block_format(kind: GGMLQuantizationType) -> BlockFormat | None:
    """The format that holds this type as it is; None for types that are not quantised."""
    return _TYPES[kind.name][0] if kind.name in _TYPES else None


def dense_values(raw: NDArray[np.uint8], kind: GGMLQuantizationType) -> Floats:
    """What whole blocks stand for, one after another: the library's values bit for bit, sooner. raw: [bytes]."""
    values: Floats
    if kind.name in _TYPES:
        form, unpack = _TYPES[kind.name]
        codes, scales, minima = unpack(raw.reshape(-1, GGML_QUANT_SIZES[kind][1]))
        codes, scales = codes.reshape(-1, form.group), scales.reshape(-1, 1)
        if minima is None:
            values = scales * (codes - np.uint8(1 << form.bits - 1)).view(np.int8)
        else:
            values = scales * codes
            values += minima.reshape(-1, 1)
        return values.reshape(-1)
    values = dequantize(raw, kind)
    return values


def read_blocks(tensor: GgufTensor, begin: int, end: int) -> Blocks:
    """Rows [begin, end) of a quantised matrix. CheckpointError when the file cannot be read or ends too soon."""
    form, unpack = _TYPES[tensor.type.name]
    raw = read_bytes(tensor, begin, end).reshape(-1, GGML_QUANT_SIZES[tensor.type][1])
    with np.errstate(over="ignore", invalid="ignore"):  # a damaged file may hold infinite scales
        codes, scales, minima = unpack(raw)
    n = end - begin
    return Blocks(form, codes.reshape(n, -1), scales.reshape(n, -1), None if minima is None else minima.reshape(n, -1))
