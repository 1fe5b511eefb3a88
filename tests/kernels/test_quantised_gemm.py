"""Products with weights of small integers: against the same arithmetic in float64, and their invariance to the bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from branchwise import _C
from tolerances import assert_close

FORMATS = [(4, 32, False), (4, 32, True), (5, 32, False), (5, 32, True), (6, 16, False), (8, 32, False), (8, 0, False)]
ROWS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 33, 96, 97, 100, 200]


def weight(n: int, k: int, bits: int, group: int, has_min: bool) -> tuple[_C.QuantisedWeight, Tensor]:
    """A packed weight and the matrix that it stands for, in float64."""
    codes = torch.randint(0, 1 << bits, (n, k), dtype=torch.uint8)
    scales = (torch.rand(n, k // group if group else 1) * 0.1).half().float()
    minima = torch.randn_like(scales).half().float() if has_min else None
    wide = scales.double().repeat_interleave(group or k, 1)
    low = minima.double().repeat_interleave(group, 1) if minima is not None else -(2 ** (bits - 1)) * wide
    return _C.QuantisedWeight(codes, scales, minima, bits, group), wide * codes.double() + low


def quantised(x: Tensor, group: int) -> Tensor:
    """x as quantised_gemm sees it, in float64: int8, a scale for `group` values (256, where the weight has none)."""
    size = group or 256
    padded = torch.nn.functional.pad(x.float(), (0, -x.shape[1] % size)).view(len(x), -1, size)
    largest = padded.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest > 0, 127 / largest, torch.zeros(()))
    codes = (padded * inverse).round()
    return (codes.double() * (largest / 127).double()).view(len(x), -1)[:, : x.shape[1]]


def product(x: Tensor, packed: _C.QuantisedWeight, bias: Tensor | None = None) -> Tensor:
    out = torch.full((len(x), packed.shape[0]), math.nan, dtype=x.dtype)
    _C.quantised_gemm(x, packed, out, bias)
    return out


@pytest.mark.parametrize(("bits", "group", "has_min"), FORMATS)
@pytest.mark.parametrize(("n", "k"), [(1, 32), (31, 64), (77, 288), (64, 896), (40, 4864)])
@pytest.mark.parametrize("rows", [1, 4, 13, 40])
def test_product(isa: str, dtype: torch.dtype, rows: int, n: int, k: int, bits: int, group: int, has_min: bool) -> None:
    torch.manual_seed(rows + n)
    packed, matrix = weight(n, k, bits, group, has_min)
    x, bias = torch.randn(rows, k).to(dtype), torch.randn(n).to(dtype)
    reference = quantised(x, group) @ matrix.T
    assert_close("gemm", product(x, packed), reference)
    assert_close("gemm", product(x, packed, bias), reference + bias.double())


@pytest.mark.parametrize("k", [1, 31, 130, 257, 330])
def test_one_scale_per_output_takes_any_length(isa: str, k: int) -> None:
    packed, matrix = weight(35, k, 8, 0, False)
    x = torch.randn(5, k)
    assert_close("gemm", product(x, packed), quantised(x, 0) @ matrix.T)


@pytest.mark.parametrize(("bits", "group", "has_min"), FORMATS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_sums_do_not_overflow(isa: str, sign: int, bits: int, group: int, has_min: bool) -> None:
    """Every code and every value of x as large as they get: some instruction sets add products up in 16 bits."""
    n, k = 32, 512
    codes = torch.full((n, k), (1 << bits) - 1, dtype=torch.uint8)
    scales = torch.ones(n, k // group if group else 1)
    packed = _C.QuantisedWeight(codes, scales, torch.zeros_like(scales) if has_min else None, bits, group)
    x = torch.full((7, k), 127.0 * sign)
    expected = 127.0 * sign * k * ((1 << bits) - 1 - (0 if has_min else 2 ** (bits - 1)))
    assert torch.equal(product(x, packed), torch.full((7, n), expected))


@pytest.mark.parametrize(("bits", "group", "has_min"), FORMATS)
def test_row_does_not_depend_on_the_batch_or_the_threads(isa: str, bits: int, group: int, has_min: bool) -> None:
    x, (packed, _) = torch.randn(200, 640).bfloat16(), weight(130, 640, bits, group, has_min)
    whole = product(x, packed)
    for rows in ROWS:
        assert torch.equal(product(x[:rows].contiguous(), packed), whole[:rows]), rows
        assert torch.equal(product(x[-rows:].contiguous(), packed), whole[-rows:]), rows
    torch.set_num_threads(1)
    assert torch.equal(product(x, packed), whole)


@pytest.mark.parametrize(("bits", "group", "has_min"), FORMATS)
def test_instruction_sets_agree_to_the_bit(bits: int, group: int, has_min: bool) -> None:
    """Sums of integers are exact, and the rest is the same chain of fused multiply-adds."""
    x, (packed, _) = torch.randn(30, 640), weight(70, 640, bits, group, has_min)
    before, results = _C.isa(), {}
    for name in _C.supported_isas():
        _C._use_isa(name)
        results[name] = product(x, packed)
    _C._use_isa(before)
    fused = [result for name, result in results.items() if name != "generic"]
    assert all(torch.equal(result, fused[0]) for result in fused)


def test_rows_of_zeros_and_no_rows(isa: str) -> None:
    packed, _ = weight(40, 64, 4, 32, True)
    assert torch.equal(product(torch.zeros(3, 64), packed), torch.zeros(3, 40))
    assert product(torch.zeros(0, 64), packed).shape == (0, 40)


@pytest.mark.parametrize(("bits", "group", "has_min"), FORMATS)
@pytest.mark.parametrize("rows", [1, 13, 70])
def test_gated(isa: str, dtype: torch.dtype, rows: int, bits: int, group: int, has_min: bool) -> None:
    torch.manual_seed(rows)
    packed, matrix = weight(128, 320, bits, group, has_min)
    x = (torch.randn(rows, 320) / 10).to(dtype)
    out = torch.full((rows, 64), math.nan, dtype=dtype)
    _C.quantised_gemm(x, packed, out, gated="silu")
    gate, up = (quantised(x, group) @ matrix.T).unflatten(1, (-1, 2, 32)).unbind(2)
    assert_close("gated", out, (torch.nn.functional.silu(gate) * up).flatten(1))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_is_not_rounded_away(isa: str, bad: float) -> None:
    packed, _ = weight(40, 64, 8, 32, False)
    x = torch.randn(3, 64)
    x[1, 7] = bad
    out = product(x, packed)
    assert out[1].isnan().all()
    assert not out[[0, 2]].isnan().any()


def test_columns_of_a_wider_result(isa: str) -> None:
    x, (packed, _) = torch.randn(5, 64), weight(40, 64, 4, 32, False)
    dense, bias = torch.randn(10, 64), torch.randn(50)
    out = torch.full((5, 50), math.nan)
    _C.gemm(x, _C.DenseWeight(dense), out, bias, 0)
    _C.quantised_gemm(x, packed, out, bias, 10)
    assert torch.equal(out[:, 10:], product(x, packed, bias[10:].contiguous()))
    assert_close("gemm", out[:, :10].contiguous(), x.double() @ dense.double().T + bias[:10].double())
    with pytest.raises(ValueError, match=r"room for columns 11 to 51"):
        _C.quantised_gemm(x, packed, out, None, 11)


def test_mistakes() -> None:
    codes, scales = torch.zeros(4, 64, dtype=torch.uint8), torch.ones(4, 2)
    with pytest.raises(ValueError, match="bits is 3"):
        _C.QuantisedWeight(codes, scales, None, 3, 32)
    with pytest.raises(ValueError, match="group is 64"):
        _C.QuantisedWeight(codes, scales, None, 4, 64)
    with pytest.raises(ValueError, match=r"scales has shape \[4, 2\]"):
        _C.QuantisedWeight(codes, scales, None, 6, 16)
    with pytest.raises(ValueError, match="minima need groups of 32"):
        _C.QuantisedWeight(codes, torch.ones(4, 4), torch.ones(4, 4), 6, 16)
    with pytest.raises(ValueError, match="whole groups of 32"):
        _C.QuantisedWeight(codes[:, :60].contiguous(), scales, None, 4, 32)
    with pytest.raises(ValueError, match="needs 8 bits"):
        _C.QuantisedWeight(codes, torch.ones(4, 1), None, 4, 0)


def test_large_outputs_are_those_of_fewer_rows(isa: str) -> None:
    """From 8 MiB on they are written past the caches, whole lines of them."""
    rows, n = 1100, 4096
    codes = torch.randint(0, 256, (n, 64), dtype=torch.uint8).numpy()
    weight = _C.QuantisedWeight(codes, torch.rand(n, 1).numpy(), None, 8, 0)

    def run(x: Tensor) -> Tensor:
        out = torch.full((len(x), n), math.nan, dtype=torch.bfloat16)
        _C.quantised_gemm(x, weight, out)
        return out

    x = torch.randn(rows, 64).bfloat16()
    assert rows * n * 2 > 8 << 20
    assert torch.equal(run(x), torch.cat([run(part) for part in x.split(100)]))
