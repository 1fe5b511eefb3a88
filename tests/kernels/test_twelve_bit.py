"""bf16 weights in 12 bits: no bit is lost, whatever the weights are, and products are those of plain panels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from branchwise import _C
from branchwise.backend.cpu import linear
from large_memory import in_large_memory

SHAPES = [(1, 1), (31, 33), (32, 32), (70, 300), (100, 896), (64, 1100), (40, 4864)]
ROWS = [1, 3, 16, 17, 32, 33, 64, 65, 100, 128, 200, 257, 600]


def weights(n: int, k: int, rare: float = 1 / 300, seed: int = 0) -> Tensor:
    """As of a model, but for some of any bits, as long as sums of products stay far below infinity."""
    generator = np.random.default_rng(seed)
    bits = (torch.from_numpy(generator.standard_normal((n, k), np.float32)) * 0.02).bfloat16().view(torch.int16).numpy()
    odd = generator.random((n, k)) < rare
    bits[odd] = generator.integers(-(1 << 15), 1 << 15, odd.sum()).astype(np.int16)
    bits[(bits >> 7 & 255) > 150] = 0
    return torch.from_numpy(bits).view(torch.bfloat16)


def product(x: Tensor, packed: _C.DenseWeight, gated: str = "") -> Tensor:
    columns = packed.shape[0] // 2 if gated else packed.shape[0]
    out = torch.full((len(x), columns), math.nan, dtype=x.dtype)
    _C.gemm(x, packed, out, gated=gated)
    return out


def unpacked(packed: _C.DenseWeight) -> Tensor:
    """The weights, each of them picked by a row of x that is one 1 among zeros: [out, in] bf16.

    Some processors take subnormal numbers for zeros.
    """
    return product(torch.eye(packed.shape[1]).bfloat16(), packed).T


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 100), st.sampled_from([0, 1 / 1000, 1 / 100]), st.integers(0, 1 << 30),
    st.sampled_from(_C.supported_isas()),
)  # fmt: skip
def test_no_bit_is_lost(n: int, k: int, rare: float, seed: int, isa: str) -> None:
    before = _C.isa()
    _C._use_isa(isa)
    try:
        weight = weights(n, k, rare, seed)
        packed = _C.DenseWeight(weight, twelve_bit=True)
        given = unpacked(packed)
        assert torch.equal(given, unpacked(_C.DenseWeight(weight)))
        normal = weight.abs() >= torch.finfo(torch.bfloat16).tiny
        assert torch.equal(given[normal], weight[normal])
    finally:
        _C._use_isa(before)


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_products_are_those_of_plain_panels(isa: str, n: int, k: int) -> None:
    weight = weights(n, k, rare=1 / 100)
    plain, twelve_bit = _C.DenseWeight(weight), _C.DenseWeight(weight, twelve_bit=True)
    assert twelve_bit.twelve_bit
    assert not plain.twelve_bit
    x = torch.randn(max(ROWS), k).bfloat16()
    for rows in ROWS:
        part = x[:rows].contiguous()
        assert torch.equal(product(part, twelve_bit), product(part, plain)), rows


@pytest.mark.parametrize("rows", [1, 40, 130, 700])
@pytest.mark.parametrize(("n", "k"), [(128, 300), (64 * 5, 5000)])
def test_gated_products_are_those_of_plain_panels(isa: str, rows: int, n: int, k: int) -> None:
    weight, x = weights(n, k), torch.randn(rows, k).bfloat16()
    plain, twelve_bit = _C.DenseWeight(weight), _C.DenseWeight(weight, twelve_bit=True)
    assert torch.equal(product(x, twelve_bit, "silu"), product(x, plain, "silu"))


def test_a_quarter_is_saved() -> None:
    weight = weights(320, 640, rare=0)
    assert _C.DenseWeight(weight, twelve_bit=True).nbytes < 0.76 * weight.nbytes


def test_weights_of_many_exponents_stay_as_they_are(isa: str) -> None:
    weight = weights(64, 96, rare=1)
    packed = _C.DenseWeight(weight, twelve_bit=True)
    assert not packed.twelve_bit
    normal = weight.abs() >= torch.finfo(torch.bfloat16).tiny
    assert torch.equal(unpacked(packed)[normal], weight[normal])
    assert not _C.DenseWeight(weight.float(), twelve_bit=True).twelve_bit, "fp32 has no such form"


def test_one_exponent_is_enough(isa: str) -> None:
    packed = _C.DenseWeight(torch.ones(33, 65).bfloat16(), twelve_bit=True)
    assert torch.equal(unpacked(packed), torch.ones(33, 65).bfloat16())


@pytest.mark.parametrize("isa_name", _C.supported_isas())
def test_layers_take_twelve_bits_where_it_pays(isa_name: str) -> None:
    before = _C.isa()
    _C._use_isa(isa_name)
    try:
        assert linear.packed_linear([weights(64, 64)]).packed[0].twelve_bit == (isa_name == "amx")
    finally:
        _C._use_isa(before)


def test_damaged_tables_are_refused() -> None:
    packed = _C.DenseWeight(weights(32, 64, rare=1 / 100), twelve_bit=True)
    tables = 2 * 1536 + 64  # of two tiles, then the exponents; then where the rare ones of a tile begin
    first = packed.panels[tables : tables + 12].view(np.uint32)
    assert 0 < first[1] < first[2]
    for at, value, message in (
        (tables, 1, "no list of rare weights"),
        (tables + 4, 255, "no list of rare weights"),
        (tables + 8, first[2] + 1, "panels has"),
        (tables + 13, 4, "rare weight at"),
    ):
        panels = in_large_memory(packed.panels)
        panels[at] = value
        with pytest.raises(ValueError, match=message):
            _C.DenseWeight.from_panels(panels, packed.shape, packed.dtype, True)
    with pytest.raises(ValueError, match="expected 3148 or more"):
        _C.DenseWeight.from_panels(in_large_memory(packed.panels[:3000]), packed.shape, packed.dtype, True)
