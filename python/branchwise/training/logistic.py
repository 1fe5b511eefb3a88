"""Logistic regression with L2, on standardised features, whose weights come out for the features as they are.

Rows may be compared in pairs, too: then it learns to rank them beside what is likely of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 60  # of L-BFGS at most
LEAST_SPREAD = 1e-4
PAIRED = 0.5  # weight of the mean loss of pairs, beside the mean loss of rows


@dataclass(frozen=True, slots=True)
class Linear:
    """z = x @ weight + bias. weight: [features]"""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, features] -> [rows]."""
        return x @ self.weight + self.bias


def fit(
    x: Tensor, y: Tensor, weights: Tensor, l2: float, *, free: int = 0, pairs: Tensor | None = None
) -> Linear:  # fmt: skip
    """Minimises the weighted mean of log-losses + `PAIRED` times that of pairs + l2 / 2 * |w|^2, w of standardised
    features but for the last `free`. The loss of a pair is -log sigmoid(z of its first row - z of its second).

    x: [rows, features] fp32    y: [rows], 0 or 1    weights: [rows], of any sum    pairs: [n, 2], rows
    """
    share = (weights / weights.sum())[:, None]
    mean = (share * x).sum(0)
    spread = (share * (x - mean) ** 2).sum(0).sqrt().clamp_min(LEAST_SPREAD)
    scaled = (x - mean) / spread
    w = torch.zeros(x.shape[1], requires_grad=True)
    b = torch.zeros(1, requires_grad=True)
    held = x.shape[1] - free
    found = torch.optim.LBFGS([w, b], max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        found.zero_grad()
        z = scaled @ w + b
        losses = F.binary_cross_entropy_with_logits(z, y, reduction="none")
        total = (share[:, 0] * losses).sum() + l2 / 2 * (w[:held] @ w[:held])
        if pairs is not None and len(pairs):
            total = total + PAIRED * F.softplus(z[pairs[:, 1]] - z[pairs[:, 0]]).mean()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    found.step(loss)  # type: ignore[no-untyped-call]
    weight = w.detach() / spread
    return Linear(weight, b.detach() - weight @ mean)


def platt(z: Tensor, y: Tensor, weights: Tensor) -> tuple[float, float]:
    """Scale and shift of sigmoid(scale * z + shift), the likeliest. z, y, weights: [rows]"""
    line = fit(z[:, None], y, weights, 0.0)
    return float(line.weight[0]), float(line.bias[0])
