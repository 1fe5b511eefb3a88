"""Numbers as people read them, at the places where the unit changes."""

from __future__ import annotations

import pytest

from branchwise.report import numbers
from branchwise.report.tally import TALLY_COLUMNS, Tally
from branchwise.types import Cost


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0.00"),
        (9.99, "9.99"),
        (9.996, "10.0"),
        (999.4, "999"),
        (999.9, "1.00 k"),
        (1000, "1.00 k"),
        (2295351040.0, "2.30 G"),
        (99_960_000, "100 M"),
        (999_900_000, "1.00 G"),
        (1.5e12, "1.50 T"),
        (7e18, "7000 P"),
    ],
)
def test_large(value, shown):
    assert numbers.large(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.04, "0.0 s"),
        (99.94, "99.9 s"),
        (99.96, "1:40 min"),
        (125, "2:05 min"),
        (3599.6, "1:00:00 h"),
        (3725, "1:02:05 h"),
    ],
)
def test_seconds(value, shown):
    assert numbers.seconds(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 40, "5120.0 GiB")])
def test_size(value, shown):
    assert numbers.size(value) == shown


def test_tally_counts_what_was_graded_alone():
    tally = Tally()
    for correct in (True, False, None, True):
        tally.add(correct, Cost(generated_tokens=1000, prm_tokens=10, flops=2e9), {"steps": 2} if correct else {})
    tally.add(None, Cost(), failed=True)
    tally.wall_seconds = 8.0
    assert (tally.problems, tally.graded, tally.right, tally.problems_per_hour) == (5, 3, 2, 2250)
    assert (tally.failed, tally.cut, tally.cuts) == (1, 2, {"steps": 4})
    assert tally.cells() == ["66.7 %", "20.8 to 93.9", "4,000", "40", "8.00 G", "8.0"]
    assert len(tally.cells()) == len(TALLY_COLUMNS)
    assert tally.as_dict()["accuracy"] == pytest.approx(2 / 3)


def test_an_empty_tally_claims_nothing():
    tally = Tally()
    assert tally.cells()[:2] == ["-", "-"]
    assert tally.as_dict()["accuracy"] is None
    assert tally.problems_per_hour == 0.0
