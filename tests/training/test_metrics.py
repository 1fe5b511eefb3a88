"""Numbers of a head's quality, against their definitions written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwise.training.metrics import auc, auc_within, brier, calibration_error, reliability

SCORES = st.sampled_from([0.0, 0.2, 0.5, 0.55, 0.9, 1.0])
CASES = st.lists(st.tuples(SCORES, st.booleans(), st.sampled_from("abc")), min_size=1, max_size=30)


def obvious(cases: list[tuple[float, bool, str]], *, within: bool) -> float:
    won = [
        (good > bad) + (good == bad) / 2
        for good, is_good, mine in cases
        for bad, is_bad, theirs in cases
        if is_good and not is_bad and (mine == theirs or not within)
    ]
    return sum(won) / len(won) if won else math.nan


@given(CASES)
def test_auc_counts_pairs(cases: list[tuple[float, bool, str]]) -> None:
    scores, right, problems = (np.array(column) for column in zip(*cases, strict=True))
    assert auc(scores, right) == pytest.approx(obvious(cases, within=False), nan_ok=True)
    assert auc_within(scores, right, problems.tolist()) == pytest.approx(obvious(cases, within=True), nan_ok=True)


def test_calibration() -> None:
    scores, right = np.array([0.05, 0.05, 0.95, 1.0]), np.array([False, True, True, True])
    assert reliability(scores, right) == [(pytest.approx(0.05), 0.5, 2), (pytest.approx(0.975), 1.0, 2)]
    assert calibration_error(scores, right) == pytest.approx((0.45 + 0.025) / 2)
    assert brier(scores, right) == pytest.approx((0.05**2 + 0.95**2 + 0.05**2) / 4)
