"""Every GGUF storage type against a scalar reading of its block layout, across chunk borders and target types."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise.errors import CheckpointError
from branchwise.weights.dequantise import CHUNK, read_tensor
from branchwise.weights.gguf_blocks import dense_values
from branchwise.weights.gguf_file import TENSOR_TYPES, GgufTensor

F = np.float32


def half(data: bytes, at: int) -> np.float32:
    return F(struct.unpack_from("<e", data, at)[0])


def nibbles(data: bytes, at: int, j: int) -> int:
    """Value j of 32 four-bit values: the low halves of 16 bytes, then the high halves."""
    return data[at + j] & 15 if j < 16 else data[at + j - 16] >> 4


def high_bit(data: bytes, at: int, j: int) -> int:
    return (struct.unpack_from("<I", data, at)[0] >> j & 1) << 4


def q4_0(b: bytes) -> list[np.float32]:
    return [half(b, 0) * F(nibbles(b, 2, j) - 8) for j in range(32)]


def q4_1(b: bytes) -> list[np.float32]:
    return [half(b, 0) * F(nibbles(b, 4, j)) + half(b, 2) for j in range(32)]


def q5_0(b: bytes) -> list[np.float32]:
    return [half(b, 0) * F((nibbles(b, 6, j) | high_bit(b, 2, j)) - 16) for j in range(32)]


def q5_1(b: bytes) -> list[np.float32]:
    return [half(b, 0) * F(nibbles(b, 8, j) | high_bit(b, 4, j)) + half(b, 2) for j in range(32)]


def q8_0(b: bytes) -> list[np.float32]:
    return [half(b, 0) * F(q) for q in struct.unpack_from("<32b", b, 2)]


def scale_min(s: bytes, j: int) -> tuple[int, int]:
    """Six-bit scale and minimum of sub-block j, packed into 12 bytes."""
    if j < 4:
        return s[j] & 63, s[j + 4] & 63
    return s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4


def k_blocks(b: bytes, quant: Callable[[int, int], int]) -> list[np.float32]:
    out = []
    for j in range(8):
        scale, minimum = scale_min(b[4:16], j)
        for i in range(32):
            out.append(half(b, 0) * F(scale) * F(quant(j, i)) - half(b, 2) * F(minimum))
    return out


def q4_k(b: bytes) -> list[np.float32]:
    return k_blocks(b, lambda j, i: b[16 + j // 2 * 32 + i] >> 4 * (j % 2) & 15)


def q5_k(b: bytes) -> list[np.float32]:
    return k_blocks(b, lambda j, i: b[48 + j // 2 * 32 + i] >> 4 * (j % 2) & 15 | (b[16 + i] >> j & 1) << 4)


def q6_k(b: bytes) -> list[np.float32]:
    scales, d = struct.unpack_from("<16b", b, 192), half(b, 208)
    out = []
    for value in range(256):
        part, quarter, i = value // 128, value % 128 // 32, value % 32
        low = b[part * 64 + quarter % 2 * 32 + i] >> 4 * (quarter // 2) & 15
        high = b[128 + part * 32 + i] >> 2 * quarter & 3
        out.append(d * F(scales[value // 16]) * F((low | high << 4) - 32))
    return out


REFERENCE: dict[str, Callable[[bytes], list[np.float32]]] = {
    "F32": lambda b: [F(struct.unpack("<f", b)[0])],
    "F16": lambda b: [half(b, 0)],
    "BF16": lambda b: [F(struct.unpack("<f", b"\0\0" + b)[0])],
    "Q4_0": q4_0,
    "Q4_1": q4_1,
    "Q5_0": q5_0,
    "Q5_1": q5_1,
    "Q8_0": q8_0,
    "Q4_K": q4_k,
    "Q5_K": q5_k,
    "Q6_K": q6_k,
}


def random_blocks(kind: str, n: int, seed: int) -> bytes:
    """Blocks of random bits, without the infinities and NaNs that random scales would hold."""
    size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    data = np.random.default_rng(seed).integers(0, 256, (n, size), dtype=np.uint8)
    tops = {"F32": [3], "F16": [1], "BF16": [1], "Q6_K": [209], "Q4_0": [1], "Q5_0": [1], "Q8_0": [1]}
    for top in tops.get(kind, [1, 3]):
        data[:, top] &= 0xBB  # clears an exponent bit
    return data.tobytes()


def expected(kind: str, data: bytes) -> np.ndarray:
    size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    return np.array([value for at in range(0, len(data), size) for value in REFERENCE[kind](data[at : at + size])], F)


def read(path: Path, kind: str, data: bytes, dtype: torch.dtype, before: int = 0) -> torch.Tensor:
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    n = len(data) // size * block
    path.write_bytes(b"?" * before + data + b"?" * 7)
    return read_tensor(GgufTensor(path, "t", (n,), GGMLQuantizationType[kind], before, len(data)), dtype)


def test_reference_covers_every_type() -> None:
    assert set(REFERENCE) == set(TENSOR_TYPES)


@pytest.mark.parametrize("kind", TENSOR_TYPES)
def test_block_formula(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("blocks") / "data"

    @given(seed=st.integers(0, 2**32), n=st.integers(1, 5), before=st.integers(0, 65))
    @settings(max_examples=15, deadline=None)
    def check(seed: int, n: int, before: int) -> None:
        data = random_blocks(kind, n, seed)
        out = read(path, kind, data, torch.float32, before).numpy()
        np.testing.assert_array_equal(out.view(np.uint32), expected(kind, data).view(np.uint32))

    check()


@pytest.mark.parametrize("kind", TENSOR_TYPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_one_rounding_to_the_target(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    data = random_blocks(kind, 8, 3)
    out = read(tmp_path / "data", kind, data, dtype)
    assert out.dtype == dtype
    assert torch.equal(out, torch.from_numpy(expected(kind, data)).to(dtype))


@pytest.mark.parametrize("kind", ["F32", "BF16", "Q5_0", "Q6_K"])
def test_chunk_borders(kind: str, tmp_path: Path) -> None:
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    data = random_blocks(kind, (2 * CHUNK + 3 * block) // block, 5)
    whole = read(tmp_path / "data", kind, data, torch.float32)
    for begin in (0, CHUNK - block, CHUNK, 2 * CHUNK):
        at = begin // block * size
        piece = read(tmp_path / "data", kind, data[at : at + 2 * size], torch.float32)
        assert torch.equal(whole[begin : begin + 2 * block], piece)


def test_infinite_scales_do_not_warn(tmp_path: Path) -> None:
    data = struct.pack("<e", float("inf")) + bytes(32)
    assert read(tmp_path / "data", "Q8_0", data, torch.float32).isnan().all()


def test_file_that_vanished(tmp_path: Path) -> None:
    tensor = GgufTensor(tmp_path / "data", "gone", (32,), GGMLQuantizationType.Q8_0, 0, 34)
    with pytest.raises(CheckpointError, match="cannot read tensor 'gone': No such file"):
        read_tensor(tensor, torch.float32)


def test_file_that_shrank(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(33))
    with pytest.raises(CheckpointError, match="ends inside tensor 'short'"):
        read_tensor(GgufTensor(path, "short", (32,), GGMLQuantizationType.Q8_0, 0, 34), torch.float32)


@pytest.mark.parametrize("kind", TENSOR_TYPES)
def test_values_are_the_library_s_bit_for_bit_whatever_the_scales(kind: str) -> None:
    size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    raw = np.random.default_rng(size).integers(0, 256, 4096 * size, np.uint8)  # scales of inf and nan, too
    with np.errstate(all="ignore"):
        expected = dequantize(raw, GGMLQuantizationType[kind])
        given_ = dense_values(raw, GGMLQuantizationType[kind])
    number = ~np.isnan(expected)
    assert np.array_equal(np.isnan(given_), ~number)
    assert np.array_equal(given_[number].view(np.uint32), expected[number].view(np.uint32))
