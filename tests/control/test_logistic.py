"""Fits against what they must satisfy: the slope of the likelihood is that of the ridge, and known cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise.control.logistic import fit, probability


def test_a_constant_alone_is_the_share_of_labels() -> None:
    w = fit([[1.0]] * 10, [True] * 7 + [False] * 3)
    assert probability(w, [1.0]) == pytest.approx(0.7, abs=1e-5)


def test_equal_labels_are_not_certain() -> None:
    assert 0.9 < probability(fit([[1.0]] * 10, [True] * 10), [1.0]) < 1


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(20, 200))
def test_the_gradient_is_zero_at_the_fit(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), rng.normal(size=(n, 2)) * 2])
    y = rng.random(n) < 1 / (1 + np.exp(-(x @ [0.3, 1.0, -2.0])))
    w = np.array(fit(x.tolist(), y.tolist()))
    p = 1 / (1 + np.exp(-(x @ w)))
    if y.min() == y.max():
        return
    slope = x.T @ (y - p) - np.array([1e-6, 1.0, 1.0]) * w
    assert np.abs(slope).max() < 1e-6


def test_probabilities_stay_inside() -> None:
    assert 0 < probability([0.0, 1.0], [1.0, -1e9]) < probability([0.0, 1.0], [1.0, 1e9]) < 1
    assert probability([math.log(3)], [1.0]) == pytest.approx(0.75)
