"""The fit finds what made the data, whatever the scale of the features, and gives weights for them as they are."""

from __future__ import annotations

import pytest
import torch

from branchwise.training import logistic


def data(rows: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 3, generator=made) * torch.tensor([1.0, 100.0, 0.01]) + torch.tensor([0.0, 500.0, 1.0])
    z = x @ torch.tensor([1.0, -0.02, 0.0]) + 10.5
    return x, (torch.rand(rows, generator=made) < z.sigmoid()).float()


def test_it_finds_what_made_the_data() -> None:
    x, y = data()
    found = logistic.fit(x, y, torch.ones(len(y)), 0.0)
    assert found.weight[0] == pytest.approx(1.0, abs=0.15)
    assert found.weight[1] == pytest.approx(-0.02, abs=0.003)
    assert abs(float(found(x).sigmoid().mean() - y.mean())) < 1e-3


def test_it_is_where_the_loss_is_flat() -> None:
    x, y = data(300)
    weights, l2 = torch.linspace(0.5, 2, 300), 0.05
    found = logistic.fit(x, y, weights, l2)
    share = weights / weights.sum()
    residual = share * (found(x).sigmoid() - y)
    mean = share @ x
    spread = (share @ (x - mean) ** 2).sqrt()
    slope = residual @ ((x - mean) / spread) + l2 * found.weight * spread
    assert slope.abs().max() < 1e-4
    assert abs(float(residual.sum())) < 1e-4


def test_platt_undoes_a_scale() -> None:
    made = torch.Generator().manual_seed(2)
    z = 3 * torch.randn(5000, generator=made)
    y = (torch.rand(5000, generator=made) < (0.5 * z - 1).sigmoid()).float()
    scale, shift = logistic.platt(z, y, torch.ones(5000))
    assert (scale, shift) == (pytest.approx(0.5, abs=0.05), pytest.approx(-1, abs=0.1))
