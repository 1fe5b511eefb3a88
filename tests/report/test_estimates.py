"""pass@k and maj@k are the means over all choices of k solutions, as enumerating them says."""

from __future__ import annotations

import time
from collections import Counter
from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise.report.estimates import majority_at, pass_at


def slow(answers: list[int | None], right: set[int], k: int) -> tuple[Fraction, Fraction]:
    """Both, over every ordered choice."""
    passes = wins = total = 0
    for chosen in permutations(answers, k):
        total += 1
        passes += any(answer in right for answer in chosen)
        votes = Counter(answer for answer in chosen if answer is not None)
        wins += bool(votes) and max(votes, key=lambda answer: (votes[answer], -chosen.index(answer))) in right
    return Fraction(passes, total), Fraction(wins, total)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([None, 0, 1, 2]), min_size=1, max_size=6), st.sets(st.integers(0, 2)), st.data())
def test_both_equal_their_definition(answers, right, data):
    n, k = len(answers), data.draw(st.integers(1, len(answers)))
    sizes = Counter(answer for answer in answers if answer is not None)
    classes = [(size, answer in right) for answer, size in sizes.items()]
    passes, wins = slow(answers, right, k)
    assert pass_at(n, sum(size for size, is_right in classes if is_right), k) == pytest.approx(float(passes))
    assert majority_at(n, classes, k) == pytest.approx(float(wins))


def test_one_solution_and_all_of_them():
    classes = [(3, False), (2, True), (1, True)]
    assert pass_at(8, 3, 1) == majority_at(8, classes, 1) == pytest.approx(3 / 8)
    assert pass_at(8, 3, 8) == 1
    assert majority_at(8, classes, 8) == 0
    assert majority_at(8, [(4, True), (4, False)], 8) == pytest.approx(0.5)
    assert majority_at(8, [], 8) == pass_at(8, 0, 8) == 0


def test_large_numbers_take_no_time():
    begun = time.process_time()
    classes = [(size, size == 20) for size in (60, 40, 20, *[4] * 20, *[1] * 30)]
    assert 0 < majority_at(256, classes, 64) < 1
    assert time.process_time() - begun < 10
