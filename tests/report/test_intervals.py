"""Wilson intervals against published values, a slow definition, and their properties."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwise.report.intervals import Z95, clustered, wilson


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


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 5))
def test_one_try_of_each_problem_or_equal_ones_are_wilsons_interval(right, tries):
    shares = [float(each) for each in right]
    assert clustered(shares, most=tries) == pytest.approx(wilson(sum(right), len(right)))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_more_tries_of_each_problem_make_it_narrower_within_limits(counts):
    low, high = clustered([count / 3 for count in counts], most=3)
    widest, narrowest = wilson(sum(counts) / 3, len(counts)), wilson(sum(counts), 3 * len(counts))
    assert widest[0] - 1e-9 <= low <= sum(counts) / 3 / len(counts) + 1e-9
    assert low <= narrowest[0] + 1e-9 or sum(counts) in (0, 3 * len(counts))
    assert high <= widest[1] + 1e-9


def test_an_interval_over_problems_and_seeds_covers_what_it_claims():
    """Problems of different difficulty, three seeds each: 95 % of the intervals hold the mean over all problems."""
    generator, hits, runs = random.Random(1), 0, 1000
    for _ in range(runs):
        chances = [generator.betavariate(1, 1) for _ in range(50)]
        low, high = clustered([sum(generator.random() < p for _ in range(3)) / 3 for p in chances], most=3)
        hits += low <= 0.5 <= high
    assert 0.93 < hits / runs < 0.97


def test_no_problem_is_no_knowledge():
    assert clustered([], most=3) == (0.0, 1.0)
