"""One score for a branch."""

from __future__ import annotations

import math
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwise.answers.aggregate import AGGREGATES, aggregate
from branchwise.errors import ConfigError, InputError
from branchwise.types import Aggregate

probabilities = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8)


def test_values() -> None:
    scores = [0.5, 0.25, 0.75]
    values = {kind: aggregate(scores, kind) for kind in AGGREGATES}
    assert values == {"last": 0.75, "min": 0.25, "prod": 0.09375, "mean": 0.5}


@given(probabilities)
def test_order_of_the_aggregates(scores: list[float]) -> None:
    prod, least, mean = (aggregate(scores, kind) for kind in ("prod", "min", "mean"))
    assert prod <= least
    assert least <= mean or math.isclose(least, mean)
    assert aggregate(scores, "last") == scores[-1]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="last, min, prod, mean"):
        aggregate([0.5], cast(Aggregate, "max"))
    with pytest.raises(InputError, match="at least one"):
        aggregate([], "last")
    for kind in AGGREGATES:
        with pytest.raises(InputError, match="NaN"):
            aggregate([0.5, math.nan, 0.5], kind)
