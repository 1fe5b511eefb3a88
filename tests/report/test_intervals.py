"""Wilson intervals against published values, a slow definition, and their properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwise.report.intervals import Z95, wilson


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    # Newcombe, Two-sided confidence intervals for the single proportion (1998), method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_values(right, total, low, high):
    assert wilson(right, total) == pytest.approx((low, high), abs=5e-5)


def test_bounds_are_where_the_test_statistic_reaches_z():
    for right, total in ((3, 10), (150, 200), (1, 7)):
        for bound in wilson(right, total):
            assert abs(right / total - bound) / math.sqrt(bound * (1 - bound) / total) == pytest.approx(Z95)


@given(st.integers(1, 10**6).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_holds_the_share_and_mirrors(counts):
    right, total = counts
    low, high = wilson(right, total)
    assert 0.0 <= low <= right / total <= high <= 1.0
    assert wilson(total - right, total) == pytest.approx((1 - high, 1 - low))


def test_nothing_seen_is_no_knowledge():
    assert wilson(0, 0) == (0.0, 1.0)
