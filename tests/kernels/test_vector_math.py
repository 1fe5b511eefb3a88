"""The vector functions keep the error bounds that vmath.h states."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from branchwise import _C


def apply(name: str, x: Tensor) -> Tensor:
    out = torch.full_like(x, math.nan)
    _C._apply(name, x, out)
    return out


@pytest.mark.parametrize(
    ("name", "low", "high", "bound"),
    [("exp2", -125.9, 126.9, 1.2e-7), ("exp", -87.2, 88.2, 1.2e-7), ("tanh", -20, 20, 3e-7)],
)
def test_relative_error(isa: str, name: str, low: float, high: float, bound: float) -> None:
    x = torch.cat([torch.linspace(low, high, 100_003), torch.linspace(-1, 1, 100_003)])
    reference = getattr(torch, name)(x.double())
    error = ((apply(name, x).double() - reference) / reference).abs()
    assert error[reference != 0].max() < bound


def test_log(isa: str) -> None:
    near_one = 1 - torch.arange(1, 4096, 2).float() * 2.0**-24
    x = torch.cat([near_one, torch.logspace(-37, 38, 100_003, base=10.0), torch.linspace(0.5, 2, 100_004)])
    x = x[x != 1]
    reference = x.double().log()
    assert ((apply("log", x).double() - reference) / reference).abs().max() < 2e-7


@pytest.mark.parametrize("name", ["exp", "exp2"])
def test_edges(isa: str, name: str) -> None:
    x = torch.tensor([0.0, -math.inf, -1e4, 1.0, math.nan])
    out = apply(name, x)
    assert out[0] == 1
    assert (out[1:3] == 0).all()
    assert out[3] == pytest.approx(math.e if name == "exp" else 2)
    assert out[4].isnan()


def test_tanh_edges(isa: str) -> None:
    out = apply("tanh", torch.tensor([0.0, 1e30, -1e30, math.inf, -math.inf]))
    assert out.tolist() == [0, 1, -1, 1, -1]
