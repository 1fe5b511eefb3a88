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


def test_it_is_where_the_loss_with_pairs_is_flat() -> None:
    x, y = data(300)
    right, wrong = y.nonzero()[:40, 0], (1 - y).nonzero()[:40, 0]
    pairs, l2 = torch.stack([right, wrong], 1), 0.05
    found = logistic.fit(x, y, torch.ones(300), l2, pairs=pairs)
    spread = x.std(0, correction=0)
    scaled, z = (x - x.mean(0)) / spread, found(x)
    pull = (z[wrong] - z[right]).sigmoid() / 40
    slope = (z.sigmoid() - y) @ scaled / 300 + l2 * found.weight * spread
    slope += logistic.PAIRED * (pull @ scaled[wrong] - pull @ scaled[right])
    assert slope.abs().max() < 1e-4
    assert logistic.fit(x, y, torch.ones(300), l2, pairs=pairs[:0]).weight.tolist() == pytest.approx(
        logistic.fit(x, y, torch.ones(300), l2).weight.tolist()
    )


def test_pairs_teach_what_the_problem_hides() -> None:
    """Which problem it is says most of what is right; the other feature says what is right in it."""
    made = torch.Generator().manual_seed(3)
    problem = torch.arange(40).repeat_interleave(6)
    hard, own = torch.randn(40, generator=made)[problem] * 4, torch.randn(240, generator=made)
    noise = torch.randn(240, 60, generator=made)
    y = (torch.rand(240, generator=made) < (hard + 2 * own).sigmoid()).float()
    x = torch.cat([hard[:, None], own[:, None], noise], 1)
    same = problem[:, None] == problem[None]
    pairs = (same & (y[:, None] > y[None])).nonzero()
    plain, paired = (logistic.fit(x, y, torch.ones(240), 0.3, pairs=each).weight for each in (None, pairs))
    assert paired[1] / paired[0] > 1.3 * plain[1] / plain[0]


def test_platt_undoes_a_scale() -> None:
    made = torch.Generator().manual_seed(2)
    z = 3 * torch.randn(5000, generator=made)
    y = (torch.rand(5000, generator=made) < (0.5 * z - 1).sigmoid()).float()
    scale, shift = logistic.platt(z, y, torch.ones(5000))
    assert (scale, shift) == (pytest.approx(0.5, abs=0.05), pytest.approx(-1, abs=0.1))
