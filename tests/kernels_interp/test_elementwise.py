"""Norms, gates and page copies against their twins."""

from __future__ import annotations

import pytest
import torch

from branchwise_kernels import gated_activation, reference, rms_norm
from kernels_interp.harness.verify import poisoned, verify

F64 = torch.float64


@pytest.mark.parametrize(("rows", "dim"), [(1, 64), (5, 257), (3, 1536)])
@pytest.mark.parametrize("add_one", [False, True])
def test_rms_norm(dtype, rng, rows, dim, add_one):
    x, weight = torch.randn(rows, dim, generator=rng).to(dtype), torch.randn(dim, generator=rng).to(dtype)
    wanted = torch.empty(rows, dim, dtype=F64)
    reference.rms_norm(x, weight, wanted, 1e-6, add_one)

    def run():
        out = poisoned(rows, dim, dtype=dtype)
        rms_norm.rms_norm(x, weight, out, 1e-6, add_one)
        return (out,)

    verify(run, [wanted], dtype)


@pytest.mark.parametrize(("rows", "dim"), [(1, 80), (4, 300)])
def test_add_rms_norm_rounds_the_sum_before_the_norm(dtype, rng, rows, dim):
    update, residual = (torch.randn(rows, dim, generator=rng).to(dtype) for _ in range(2))
    weight = torch.randn(dim, generator=rng).to(dtype)
    wanted_residual, wanted = residual.clone(), torch.empty(rows, dim, dtype=F64)
    reference.add_rms_norm(update, wanted_residual, weight, wanted, 1e-5, False)

    def run():
        total, out = residual.clone(), poisoned(rows, dim, dtype=dtype)
        rms_norm.add_rms_norm(update, total, weight, out, 1e-5, False)
        return total, out

    verify(run, [wanted_residual.double(), wanted], dtype)


@pytest.mark.parametrize("op", ["silu_mul", "gelu_mul"])
@pytest.mark.parametrize(("rows", "dim"), [(1, 16), (3, 1100)])
def test_gate(dtype, rng, op, rows, dim):
    gate_up = (4 * torch.randn(rows, 2 * dim, generator=rng)).to(dtype)
    wanted = torch.empty(rows, dim, dtype=F64)
    getattr(reference, op)(gate_up, wanted)

    def run():
        out = poisoned(rows, dim, dtype=dtype)
        getattr(gated_activation, op)(gate_up, out)
        return (out,)

    verify(run, [wanted], dtype)


def test_extreme_gates_are_finite():
    gate_up = torch.tensor([[-1e4, -88.0, 0.0, 88.0, 1e4, 1.0, 1.0, 1.0, 1.0, 1.0]])
    for op in ("silu_mul", "gelu_mul"):
        out, wanted = torch.empty(1, 5), torch.empty(1, 5, dtype=F64)
        getattr(gated_activation, op)(gate_up, out)
        getattr(reference, op)(gate_up, wanted)
        assert torch.allclose(out.double(), wanted, atol=1e-6), op


def test_a_wrong_argument_is_named():
    x, weight, out = torch.zeros(2, 8), torch.zeros(8), torch.zeros(2, 8)
    with pytest.raises(ValueError, match=r"weight has shape \[4\], expected \[8\]"):
        rms_norm.rms_norm(x, weight[:4], out, 1e-6, False)
    with pytest.raises(TypeError, match="out is float16, expected float32"):
        rms_norm.rms_norm(x, weight, out.half(), 1e-6, False)
    with pytest.raises(ValueError, match="x is not contiguous"):
        rms_norm.rms_norm(torch.zeros(8, 2).T, weight, out, 1e-6, False)
