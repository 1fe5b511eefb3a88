"""Windows of confidence over steps and forks, against the obvious way; whole solutions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwise.confidence import Confidence, ConfidenceOptions, TraceConfidence

VALUES = st.lists(st.floats(0, 30, width=32), min_size=0, max_size=60)


def grown(values: list[float], window: int, cuts: list[int] = (), top: int = 20) -> Confidence:  # type: ignore[assignment]
    """The last step of a path of these values, cut into steps at some places; certainties are half of them."""
    step = Confidence(ConfidenceOptions(top, window), None)
    for place, value in enumerate(values):
        for _ in range(cuts.count(place)):
            step = Confidence(step.options, step)
        step.add(value, value / 2)
    return step


def all_groups(last: Confidence) -> list[float]:
    return [group for step in last.path() for group in step.groups()]


@given(VALUES, st.integers(1, 70), st.lists(st.integers(0, 60), max_size=8))
def test_windows_do_not_care_for_steps(values: list[float], window: int, cuts: list[int]) -> None:
    last, whole = grown(values, window, cuts), grown(values, window)
    assert all_groups(last) == all_groups(whole)  # bit by bit
    assert TraceConfidence.of(last) == TraceConfidence.of(whole)
    expected = [float(np.mean(values[end - window : end])) for end in range(window, len(values) + 1)]
    assert all_groups(last) == pytest.approx(expected, abs=1e-12)


@given(VALUES.filter(len), st.integers(1, 70))
def test_measures(values: list[float], window: int) -> None:
    told = TraceConfidence.of(grown(values, window))
    groups = [np.mean(values[end - window : end]) for end in range(window, len(values) + 1)] or [np.mean(values)]
    least = np.sort(groups)[: max(1, len(groups) // 10)]
    wanted = [np.mean(values), groups[-1], min(groups), least.mean(), np.mean(values) / 2]
    assert told.tokens == len(values)
    assert [told.mean, told.tail, told.lowest, told.bottom, told.certainty] == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(("tokens", "groups"), [(7, 0), (8, 1), (9, 2)])
def test_no_group_ends_before_its_window_is_full(tokens: int, groups: int) -> None:
    last = grown([float(i) for i in range(tokens)], 8)
    assert len(last.groups()) == groups
    assert TraceConfidence.of(last).lowest == pytest.approx(3.0 if tokens < 8 else 3.5)


def test_branches_share_what_is_before_their_fork() -> None:
    trunk = grown([5.0, 1.0, 4.0], 4)
    left, right = Confidence(trunk.options, trunk), Confidence(trunk.options, trunk)
    for value in (2.0, 3.0):
        left.add(value, 0.0)
    for value in (10.0, 20.0):
        right.add(value, 0.0)
    assert left.groups() == all_groups(grown([5.0, 1.0, 4.0, 2.0, 3.0], 4)) == [3.0, 2.5]
    assert right.groups() == all_groups(grown([5.0, 1.0, 4.0, 10.0, 20.0], 4)) == [5.0, 8.75]
    assert trunk.values == [5.0, 1.0, 4.0]


def test_a_path_without_tokens() -> None:
    assert TraceConfidence.of(grown([], 4)) == TraceConfidence(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert grown([], 4).mean == 0.0


def test_long_paths_stay_exact() -> None:
    values = [float(np.float32(12 + math.sin(i))) for i in range(30_000)]
    last = grown(values, 2048, list(range(0, 30_000, 97)))
    assert last.groups()[-1] == pytest.approx(float(np.mean(values[-2048:])), abs=1e-9)
