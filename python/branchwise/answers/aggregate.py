"""One number for the step scores of a branch: the one rule for pruning and for the final pick."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from branchwise.errors import ConfigError, InputError
from branchwise.types import Aggregate

AGGREGATES: Mapping[Aggregate, Callable[[Sequence[float]], float]] = MappingProxyType(
    {
        "last": lambda scores: scores[-1],  # for PRMs that judge the solution so far
        "min": min,  # a chain is as strong as its weakest step
        "prod": math.prod,  # P(all steps good) if independent; favours short solutions
        "mean": lambda scores: math.fsum(scores) / len(scores),
    }
)


def aggregate(scores: Sequence[float], kind: Aggregate) -> float:
    """Return one score for the step scores of a branch, first step to last.

    Raises ConfigError for an unknown kind, InputError for no scores and for a NaN among them.
    """
    if kind not in AGGREGATES:
        raise ConfigError(f"aggregate is {kind!r}: choose one of {', '.join(AGGREGATES)}")
    if not scores:
        raise InputError(f"aggregate {kind!r} of no scores: a branch needs at least one scored step")
    if any(math.isnan(score) for score in scores):
        raise InputError(f"step scores {list(scores)} contain NaN: the reward model or its dtype is damaged")
    return AGGREGATES[kind](scores)
