"""Measures of probabilities against slow readings of their definitions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwise.control.quality import auc, auc_within, expected_error, quality, reliability

pairs = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans()), min_size=1, max_size=30)


def slow(drawn: list[tuple[float, bool]]) -> tuple[float, int]:
    rights, wrongs = [p for p, r in drawn if r], [p for p, r in drawn if not r]
    won = sum((a > b) + (a == b) / 2 for a in rights for b in wrongs)
    return won, len(rights) * len(wrongs)


@given(pairs)
def test_auc_counts_pairs(drawn: list[tuple[float, bool]]) -> None:
    won, possible = slow(drawn)
    assert auc([p for p, _ in drawn], [r for _, r in drawn]) == (pytest.approx(won / possible) if possible else None)


@given(st.lists(pairs, min_size=1, max_size=4))
def test_auc_within_counts_pairs_of_a_group(groups: list[list[tuple[float, bool]]]) -> None:
    found = [slow(each) for each in groups]
    flat = [(g, p, r) for g, each in enumerate(groups) for p, r in each]
    made = auc_within([p for _, p, _ in flat], [r for _, _, r in flat], [g for g, _, _ in flat])
    possible = sum(each[1] for each in found)
    assert made == (pytest.approx(sum(each[0] for each in found) / possible) if possible else None)


def test_calibration_error_of_known_cases() -> None:
    assert expected_error([0.5] * 100, [True, False] * 50) == pytest.approx(0.0)
    assert expected_error([1.0] * 100, [True, False] * 50) == pytest.approx(0.5)
    assert expected_error([0.0] * 50 + [1.0] * 50, [False] * 50 + [True] * 50) == 0
    assert reliability([0.25, 0.75], [False, True]) == [(0.25, 0.0, 1), (0.75, 1.0, 1)]
    assert quality([0.25, 0.75], [False, True], ["a", "a"]) == {
        "ece": 0.25, "brier": 0.0625, "accuracy": 0.5, "auc": 1.0, "auc_within": 1.0,
    }  # fmt: skip
