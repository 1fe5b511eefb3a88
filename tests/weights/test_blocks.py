"""Blocks: GGUF's types cut into codes, scales and minima against the library's values; dense matrices quantised."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from branchwise.errors import CheckpointError, ConfigError
from branchwise.weights.blocks import QUANTISED, BlockFormat, quantise, stack
from branchwise.weights.gguf_blocks import block_format, read_blocks
from branchwise.weights.gguf_file import TENSOR_TYPES, GgufTensor

TYPES = [name for name in TENSOR_TYPES if name not in ("F32", "F16", "BF16")]


def stored(path: Path, name: str, n: int, k: int, seed: int) -> tuple[GgufTensor, np.ndarray]:
    """Random blocks in a file, with finite scales, and the values that the library reads from them."""
    kind = GGMLQuantizationType[name]
    block, size = GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(seed).integers(0, 256, (n * k // block, size), dtype=np.uint8)
    for at in {"Q6_K": [208], "Q8_0": [0], "Q4_0": [0], "Q5_0": [0]}.get(name, [0, 2]):
        raw[:, at + 1] &= 0xBF  # no infinite or huge fp16 number
    path.write_bytes(b"x" * 7 + raw.tobytes())
    return GgufTensor(path, "w", (n, k), kind, 7, raw.size), dequantize(raw, kind).reshape(n, k)


@pytest.mark.parametrize("name", TYPES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 5), blocks=st.integers(1, 3))
def test_blocks_hold_what_the_library_reads(
    name: str, seed: int, n: int, blocks: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("blocks") / "file"
    tensor, expected = stored(path, name, n, 256 * blocks, seed)
    given_ = read_blocks(tensor, 0, n)
    assert given_.format == block_format(tensor.type)
    assert int(given_.codes.max()) < 2**given_.format.bits
    np.testing.assert_allclose(given_.dense().numpy(), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(read_blocks(tensor, n - 1, n).codes, given_.codes[n - 1 :])


def test_a_short_file_is_refused(tmp_path: Path) -> None:
    tensor, _ = stored(tmp_path / "file", "Q4_K", 2, 256, 0)
    (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="ends inside tensor 'w'"):
        read_blocks(tensor, 0, 2)
    with pytest.raises(CheckpointError, match="cannot read tensor 'w'"):
        read_blocks(replace(tensor, path=tmp_path / "gone"), 0, 2)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_dense_types_have_no_blocks(name: str) -> None:
    assert block_format(GGMLQuantizationType[name]) is None


def rounding_error(weight: Tensor, form: BlockFormat) -> Tensor:
    """Largest error of each group over its step, both computed in float64 from the definition."""
    blocks = quantise(weight, form)
    width = form.group or weight.shape[1]
    groups = weight.double().view(len(weight), -1, width)
    spread = groups.amax(2) - groups.amin(2) if form.has_minima else 2 * groups.abs().amax(2)
    step = spread / (2**form.bits - (1 if form.has_minima else 2))
    error = (blocks.dense().double() - weight).abs().view(groups.shape).amax(2)
    return error / step.clamp_min(1e-30)


@pytest.mark.parametrize("name", QUANTISED)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 100), shift=st.floats(-1, 1))
def test_codes_are_the_nearest(name: str, seed: int, scale: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(5, 96, generator=generator) + shift) * scale
    weight[0, :32] = 0.5  # all equal
    weight[1] = 0.0
    error = rounding_error(weight, QUANTISED[name])
    # Half a step, and what fp16 does to scale and minimum: up to 2^-11 of each, seen over the range of the codes.
    assert error[2:].max() <= 0.5 + 2.0 ** QUANTISED[name].bits * 2**-10
    assert error[1].max() == 0
    blocks = quantise(weight, QUANTISED[name])
    dense = blocks.dense()
    assert dense.isfinite().all()
    for values in (blocks.scales, blocks.minima) if blocks.format.group else ():
        assert values is None or np.array_equal(values, values.astype(np.float16))
    if QUANTISED[name].group:
        assert (dense[0, :32] - 0.5).abs().max() <= 0.5 * 2**-10


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_what_cannot_be_rounded_is_not_hidden(name: str, bad: float) -> None:
    weight = torch.randn(2, 64)
    weight[1, 40] = bad
    blocks = quantise(weight, QUANTISED[name])
    assert blocks.rows(np.array([0])).dense().isfinite().all()
    if bad != 1e30 or blocks.format.group:  # fp16 scales end at 65,504
        assert not np.isfinite(blocks.scales[1]).all()


def test_a_group_that_does_not_divide_is_named() -> None:
    with pytest.raises(ConfigError, match=r"layer 3 has 48 inputs, expected a multiple of 32: choose weights='int8'"):
        quantise(torch.zeros(2, 48), QUANTISED["q4"], "layer 3")
    assert quantise(torch.ones(2, 48), QUANTISED["int8"]).dense().eq(1).all()


def test_rows_and_stacks() -> None:
    parts = [quantise(torch.randn(n, 64), QUANTISED["q4"]) for n in (3, 2)]
    whole = stack(parts)
    assert torch.equal(whole.dense(), torch.cat([part.dense() for part in parts]))
    order = np.array([4, 0, 2])
    assert torch.equal(whole.rows(order).dense(), whole.dense()[torch.from_numpy(order)])
    assert stack(parts[:1]) is parts[0]


def test_bits_per_weight() -> None:
    assert [QUANTISED[name].bits_per_weight for name in ("int8", "q8", "q4")] == [8, 8.5, 5]
