"""Every way to choose among the same candidates: majority, and {last, min, prod, mean} x {max, vote}."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from branchwise.answers.vote import choose
from branchwise.scoring.aggregate import AGGREGATES, aggregate
from branchwise.types import Candidate, Selection


def every_choice(candidates: Sequence[Candidate]) -> dict[str, Selection]:
    """Return a selection for "majority" and for each of "last_max", "last_vote", "min_max" ... "mean_vote".

    "max" takes the best single trajectory, "vote" sums the scores of equal answers. Without scores only majority.
    """
    choices = {"majority": choose(candidates, "majority")}
    if not any(candidate.scores for candidate in candidates):
        return choices
    for kind in AGGREGATES:
        rescored = [
            replace(candidate, score=aggregate(candidate.scores, kind) if candidate.scores else None)
            for candidate in candidates
        ]
        choices[f"{kind}_max"] = choose(rescored, "max")
        choices[f"{kind}_vote"] = choose(rescored, "weighted")
    return choices
