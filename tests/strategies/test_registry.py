"""Strategies by name, and options that are refused with a value that works."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from branchwise.errors import ConfigError
from branchwise.strategies import DVTS, STRATEGIES, BeamSearch, BestOfN, Greedy, make_strategy
from branchwise.strategies.registry import option_names


def test_names() -> None:
    assert list(STRATEGIES) == [
        "greedy", "majority", "adaptive", "esc", "confidence", "deepconf", "best_of_n", "weighted_best_of_n", "beam",
        "dvts", "rebase", "ets", "particles", "particle_gibbs", "mcts", "ab_mcts", "rsa", "thinking", "auto",
        "sal_beam", "sal_dvts", "cotts_beam",
        "its_beam",
    ]  # fmt: skip
    for name, strategy in STRATEGIES.items():
        assert make_strategy(name).name == name
        assert isinstance(make_strategy(name), strategy)
    assert make_strategy("Best-of-N", n=3) == BestOfN(n=3)
    ready = DVTS(n=8)
    assert make_strategy(ready) is ready


def test_options() -> None:
    assert option_names("beam") == [
        "n", "aggregate", "max_steps", "vote", "every", "lookahead", "duplicates", "expand",
    ]  # fmt: skip
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
        ("beam", {"lookahead": -1}, "lookahead is -1, expected a whole number of at least 0"),
        ("beam", {"every": 0}, "every is 0"),
        ("dvts", {"duplicates": "dorp"}, "did you mean 'drop'"),
        ("rebase", {"balance": 0}, "balance is 0, expected more than 0 to 1000"),
        ("rebase", {"expand": 4}, "has no option 'expand'"),
        ("ets", {"alike": 1.5}, "alike is 1.5"),
        ("ets", {"kv_cost": float("nan")}, "kv_cost is nan"),
        ("particles", {"resample": "sytematic"}, "did you mean 'systematic'"),
        ("particles", {"ess": 2}, "ess is 2, expected 0 to 1"),
        ("particle_gibbs", {"n": 10}, "expected n to be a multiple of iterations"),
        ("particle_gibbs", {"n": 4}, "with more than 1 particles in each"),
        ("mcts", {"rule": "ucb"}, "did you mean 'uct'"),
        ("mcts", {"parallel": 0}, "parallel is 0"),
        ("ab_mcts", {"posterior": "gauss"}, "did you mean 'gaussian'"),
        ("adaptive", {"confidence": 0.3}, "confidence is 0.3, expected 0.5 to 1"),
        ("esc", {"wave": 0}, "wave is 0"),
        ("particle", {}, "did you mean 'particles'"),
        (BeamSearch(), {"n": 4}, "beside a ready strategy"),
    ],
)
def test_refusals(name: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_strategy(name, **options)
