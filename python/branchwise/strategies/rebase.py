"""REBASE: reward-balanced search. Every branch gets children in proportion to the softmax of its score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from branchwise.strategies.candidates import branch_score
from branchwise.strategies.levels import LevelSearch
from branchwise.strategies.options import check_number
from branchwise.types import Node

ROUNDING = 1e-9  # a share that should be whole may come out a little above it


@dataclass(frozen=True, slots=True)
class Rebase(LevelSearch):
    """After every step branches get children in proportion to the softmax of their scores.

    n slots; of W that are left, the branches take ceil(W * e / S) in turn, best first, e = exp(score / balance) and
    S the sum over those that have not taken yet.

    balance: temperature of the softmax; small: the best take all    A branch without a score weighs nothing beside
    those that have one. Source: Wu et al., Inference Scaling Laws, arXiv 2408.00724, and its code; here tokens are
    counted over the whole solution, and no branch is lost for want of a score.
    """

    balance: float = 0.2
    name: ClassVar[str] = "rebase"

    def __post_init__(self) -> None:
        LevelSearch.__post_init__(self)
        check_number(self.name, "balance", self.balance, 0, 1000, positive=True)

    @property
    def group_size(self) -> int:
        """All n slots compete."""
        return self.n

    def share(self, ranked: Sequence[Node], heads: Sequence[Node], slots: int) -> list[int]:
        """In proportion to the softmax of the scores, rounded up from the best on."""
        return balanced(self.weights(heads), slots)

    def weights(self, heads: Sequence[Node]) -> list[float]:
        """exp((score - best) / balance) of each branch."""
        scores = [branch_score(node, self.aggregate) for node in heads]
        best = max((score for score in scores if score is not None), default=0.0)
        known = [score for score in scores if score is not None]
        if not known:
            return [1.0] * len(heads)
        return [0.0 if score is None else math.exp((score - best) / self.balance) for score in scores]


def balanced(weights: Sequence[float], slots: int) -> list[int]:
    """`slots` in shares of `weights`, each rounded up in turn: later ones may get nothing. Heaviest first."""
    shares, left = [], slots
    for place, weight in enumerate(weights):
        total = math.fsum(weights[place:])
        part = math.ceil(left * weight / total - ROUNDING) if total > 0 else 0
        shares.append(part)
        left -= part
    return shares
