"""Strategies by name, and options that are refused with a value that works."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from branchwise.errors import ConfigError
from branchwise.strategies import DVTS, STRATEGIES, BeamSearch, BestOfN, Greedy, make_strategy
from branchwise.strategies.registry import option_names


def test_names() -> None:
    assert list(STRATEGIES) == ["greedy", "majority", "best_of_n", "weighted_best_of_n", "beam", "dvts"]
    for name, strategy in STRATEGIES.items():
        assert make_strategy(name).name == name
        assert isinstance(make_strategy(name), strategy)
    assert make_strategy("Best-of-N", n=3) == BestOfN(n=3)
    ready = DVTS(n=8)
    assert make_strategy(ready) is ready


def test_options() -> None:
    assert option_names("beam") == ["n", "expand", "aggregate", "max_steps", "vote"]
    assert option_names("greedy") == ["max_steps"]
    assert make_strategy("beam", n=8, expand=2, aggregate="min") == BeamSearch(n=8, expand=2, aggregate="min")
    assert make_strategy("greedy") == Greedy()
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_strategy("beam").n = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("beem", {}, "did you mean 'beam'"),
        ("zzz", {}, "choose one of greedy, majority"),
        ("beam", {"expnad": 4}, "did you mean 'expand'"),
        ("greedy", {"n": 4}, "it has max_steps"),
        ("beam", {"n": 10}, "use n=8 or n=12"),
        ("dvts", {"n": 18, "expand": 8}, "use n=16 or n=24"),
        ("beam", {"n": 2}, "use n=4, or expand=2"),
        ("beam", {"n": 0}, "n is 0, expected a whole number"),
        ("beam", {"expand": 0}, "expand is 0"),
        ("beam", {"n": "16"}, "n is '16'"),
        ("beam", {"n": True}, "n is True"),
        ("majority", {"n": -1}, "n is -1"),
        ("majority", {"max_steps": 0}, "max_steps is 0"),
        ("greedy", {"max_steps": 1.5}, "max_steps is 1.5"),
        ("best_of_n", {"n": 0}, "n is 0"),
        ("best_of_n", {"aggregate": "lst"}, "did you mean 'last'"),
        ("dvts", {"aggregate": "avg"}, "expected one of last, min, prod, mean"),
        ("dvts", {"vote": "weigthed"}, "did you mean 'weighted'"),
        (BeamSearch(), {"n": 4}, "beside a ready strategy"),
    ],
)
def test_refusals(name: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_strategy(name, **options)
