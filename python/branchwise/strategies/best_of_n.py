"""Best-of-N: n independent solutions, scored step by step while they grow, the best-scored answer wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from branchwise.answers.aggregate import AGGREGATES
from branchwise.answers.vote import VOTES, Vote
from branchwise.strategies.candidates import choose_among
from branchwise.strategies.chains import Chains
from branchwise.strategies.options import check_choice, check_count, check_limit
from branchwise.strategies.protocol import State
from branchwise.types import Aggregate, Selection


@dataclass(frozen=True, slots=True)
class BestOfN(Chains):
    """n independent solutions; the best-scored one wins.

    `aggregate` makes one score of the steps of a solution, `vote` picks the answer.

    Ties: weight of the answer class, then highest single score, then smallest lineage path. Raises ConfigError for a
    bad option.
    """

    n: int = 16
    aggregate: Aggregate = "last"
    vote: Vote = "max"
    name: ClassVar[str] = "best_of_n"
    uses_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count(self.name, "n", self.n)
        check_limit(self.name, "max_steps", self.max_steps)
        check_choice(self.name, "aggregate", self.aggregate, AGGREGATES)
        check_choice(self.name, "vote", self.vote, VOTES)

    def select(self, state: State) -> Selection:
        """Return the answer that `vote` picks among the finished chains."""
        return choose_among(state, self.aggregate, self.vote)


@dataclass(frozen=True, slots=True)
class WeightedBestOfN(BestOfN):
    """Best-of-N whose equal answers add up their scores."""

    vote: Vote = "weighted"
    name: ClassVar[str] = "weighted_best_of_n"
