"""Our GEMM against float64, and its row invariance to the bit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from branchwise import _C
from tolerances import assert_close

ROWS = [1, 2, 3, 5, 6, 7, 12, 13, 16, 17, 31, 33, 64, 100, 257, 300]


def product(x: Tensor, weight: _C.DenseWeight, bias: Tensor | None = None) -> Tensor:
    out = torch.full((len(x), weight.shape[0]), math.nan, dtype=x.dtype)
    _C.gemm(x, weight, out, bias)
    return out


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 896), (31, 33), (32, 256), (77, 257), (100, 1000), (40, 4864)])
@pytest.mark.parametrize("rows", [1, 4, 13, 40])
def test_product(isa: str, dtype: torch.dtype, rows: int, n: int, k: int) -> None:
    torch.manual_seed(rows + n)
    x, weight, bias = torch.randn(rows, k).to(dtype), torch.randn(n, k).to(dtype), torch.randn(n).to(dtype)
    packed = _C.DenseWeight(weight)
    reference = x.double() @ weight.double().T
    assert_close("gemm", product(x, packed), reference)
    assert_close("gemm", product(x, packed, bias), reference + bias.double())


@pytest.mark.parametrize(("n", "k"), [(48, 300), (64, 1100)])
def test_row_does_not_depend_on_the_batch(isa: str, dtype: torch.dtype, n: int, k: int) -> None:
    x, weight = torch.randn(300, k).to(dtype), torch.randn(n, k).to(dtype)
    packed = _C.DenseWeight(weight)
    whole = product(x, packed)
    for rows in ROWS:
        assert torch.equal(product(x[:rows].contiguous(), packed), whole[:rows]), rows
        assert torch.equal(product(x[-rows:].contiguous(), packed), whole[-rows:]), rows


@pytest.mark.parametrize("act", ["", "silu"])
def test_large_outputs_are_those_of_fewer_rows(isa: str, act: str) -> None:
    """From 8 MiB on they are written past the caches, whole lines of them."""
    rows, n = 1100, 4096
    x, weight = torch.randn(rows, 32).bfloat16(), torch.randn(2 * n if act else n, 32).bfloat16()
    packed = _C.DenseWeight(weight)

    def run(x: Tensor) -> Tensor:
        out = torch.full((len(x), n), math.nan, dtype=torch.bfloat16)
        _C.gemm(x, packed, out, gated=act)
        return out

    assert rows * n * 2 > 8 << 20
    assert torch.equal(run(x), torch.cat([run(part) for part in x.split(100)]))


def test_threads_do_not_change_bits(isa: str, dtype: torch.dtype) -> None:
    x, packed = torch.randn(50, 500).to(dtype), _C.DenseWeight(torch.randn(200, 500).to(dtype))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(product(x, packed))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def alternate(gate: Tensor, up: Tensor) -> Tensor:
    """Rows as a gated product takes them: 32 of gate, 32 of up in turn."""
    return torch.stack([gate.unflatten(0, (-1, 32)), up.unflatten(0, (-1, 32))], dim=1).flatten(0, 2)


@pytest.mark.parametrize("kind", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("rows", [1, 4, 13, 70, 300])
@pytest.mark.parametrize(("n", "k"), [(32, 40), (96, 300), (320, 5000)])
def test_gated(isa: str, dtype: torch.dtype, kind: str, rows: int, n: int, k: int) -> None:
    torch.manual_seed(rows + n)
    x = torch.randn(rows, k).to(dtype)
    gate, up = (3 * torch.randn(2, n, k) / k**0.5).to(dtype)
    packed = _C.DenseWeight(alternate(gate, up))
    out = torch.full((rows, n), math.nan, dtype=dtype)
    _C.gemm(x, packed, out, gated=kind)
    scores = x.double() @ gate.double().T
    silu = torch.nn.functional.silu(scores)
    activated = silu if kind == "silu" else torch.nn.functional.gelu(scores, approximate="tanh")
    assert_close("gated", out, activated * (x.double() @ up.double().T))
    alone = torch.full_like(out[-1:], math.nan)
    _C.gemm(x[-1:].contiguous(), packed, alone, gated=kind)
    assert torch.equal(alone, out[-1:])


def test_no_rows(isa: str, dtype: torch.dtype) -> None:
    x, weight = torch.zeros(0, 8, dtype=dtype), torch.zeros(4, 8, dtype=dtype)
    assert product(x, _C.DenseWeight(weight)).shape == (0, 4)


def test_onednn_still_works_after_ours(isa: str) -> None:
    """AMX tiles are configured per thread: ours must leave the configuration of others as it was."""
    x, weight = torch.randn(64, 512).bfloat16(), torch.randn(256, 512).bfloat16()
    packed = _C.DenseWeight(weight)
    before = torch.nn.functional.linear(x, weight)
    for _ in range(3):
        product(x, packed)
        assert torch.equal(torch.nn.functional.linear(x, weight), before)


def test_gated_mistakes() -> None:
    x, packed = torch.zeros(2, 8), _C.DenseWeight(torch.zeros(64, 8))
    with pytest.raises(ValueError, match="kind is 'relu', expected 'silu' or 'gelu_tanh'"):
        _C.gemm(x, packed, torch.zeros(2, 32), gated="relu")
    with pytest.raises(ValueError, match="expected room for columns 0 to 32"):
        _C.gemm(x, packed, torch.zeros(2, 31), gated="silu")
    with pytest.raises(ValueError, match="has 32 rows, expected a multiple of 64"):
        _C.gemm(x, _C.DenseWeight(torch.zeros(32, 8)), torch.zeros(2, 16), gated="silu")
    with pytest.raises(ValueError, match="takes no bias"):
        _C.gemm(x, packed, torch.zeros(2, 32), torch.zeros(32), gated="silu")


def test_mistakes() -> None:
    packed = _C.DenseWeight(torch.zeros(4, 8))
    with pytest.raises(ValueError, match=r"x has shape \[2, 7\]"):
        product(torch.zeros(2, 7), packed)
    with pytest.raises(ValueError, match=r"bias has shape \[3\]"):
        product(torch.zeros(2, 8), packed, torch.zeros(3))
    with pytest.raises(ValueError, match="x is bfloat16, expected float32"):
        product(torch.zeros(2, 8).bfloat16(), packed)
    with pytest.raises(ValueError, match="out is bfloat16, expected float32"):
        _C.gemm(torch.zeros(2, 8), packed, torch.zeros(2, 4).bfloat16())
    with pytest.raises(ValueError, match="weight is float16"):
        _C.DenseWeight(torch.zeros(4, 8).half())
    with pytest.raises(ValueError, match="it is empty"):
        _C.DenseWeight(torch.zeros(0, 8))
