"""Logistic regression with a few features, by Newton's method."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

RIDGE = 1.0  # of coefficients, the constant apart: as strong as a few samples
_STEPS, _CLOSE = 50, 1e-9


def fit(features: Sequence[Sequence[float]], labels: Sequence[bool], ridge: float = RIDGE) -> list[float]:
    """Coefficients w that maximise the likelihood of P(label) = 1 / (1 + exp(-w . x)), less ridge / 2 |w[1:]|^2.

    features: the first of each is the constant 1. Where all labels are equal, half a sample of the other kind is added
    to them.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    n, width = x.shape
    if y.min() == y.max():
        y = np.clip(y, 0.5 / (n + 1), 1 - 0.5 / (n + 1))
    penalty = np.full(width, ridge)
    penalty[0] = 1e-6
    w = np.zeros(width)
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        slope = x.T @ (y - p) - penalty * w
        curve = (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(curve, slope)
        w += step * min(1.0, 5.0 / (np.abs(step).max() + 1e-12))
        if np.abs(step).max() < _CLOSE:
            break
    return [float(each) for each in w]


def probability(w: Sequence[float], features: Sequence[float]) -> float:
    """P(label) of one sample."""
    z = math.fsum(a * b for a, b in zip(w, features, strict=True))
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, z))))
