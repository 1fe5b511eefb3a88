"""Votes by how sure the policy was: n independent solutions, weighed without any judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from branchwise.answers.vote import POWER, VOTES, Vote
from branchwise.confidence import MEASURES, ConfidenceOptions, Measure
from branchwise.strategies.candidates import choose_among
from branchwise.strategies.chains import Chains
from branchwise.strategies.options import check_choice, check_confidence, check_count, check_limit, check_number
from branchwise.strategies.protocol import Demand, Limits, State
from branchwise.types import Selection


@dataclass(frozen=True, slots=True)
class ConfidenceVote(Chains):
    """n independent solutions; the answer that the policy was surest of.

    measure       of a whole solution, see `TraceConfidence`; with `window` tokens in a group and `top` likeliest words
    vote          its weight: see `answers.vote`; `power` is that of Borda votes
    keep_percent  so many percent of the solutions with an answer vote, the surest ones; 100: all of them

    DeepConf's offline votes are "weighted" by tail, lowest or bottom, with keep_percent 10 where it filters (arXiv
    2508.15260); that of self-certainty is "borda" by certainty (arXiv 2502.18581).

    Ties: weight of the answer class, then highest single measure, then smallest lineage path. Raises ConfigError for a
    bad option.
    """

    n: int = 16
    measure: Measure = "tail"
    vote: Vote = "weighted"
    keep_percent: float = 100
    power: float = POWER
    window: int = ConfidenceOptions().window
    top: int = ConfidenceOptions().top
    name: ClassVar[str] = "confidence"

    def __post_init__(self) -> None:
        check_count(self.name, "n", self.n)
        check_limit(self.name, "max_steps", self.max_steps)
        check_choice(self.name, "measure", self.measure, MEASURES)
        check_choice(self.name, "vote", self.vote, VOTES)
        check_number(self.name, "keep_percent", self.keep_percent, 0, 100, positive=True)
        check_number(self.name, "power", self.power, 0, 100)
        check_confidence(self.name, self.window, self.top)

    def demand(self, limits: Limits) -> Demand:
        """n whole paths, and how sure the policy was of them."""
        told = ConfidenceOptions(self.top, self.window)
        return Demand(self.n, self.n, self.max_steps, scores=False, confidence=told)

    def select(self, state: State) -> Selection:
        """Return the answer that `vote` picks among the finished chains."""
        return choose_among(
            state, "last", self.vote, measure=self.measure, keep_percent=self.keep_percent, power=self.power
        )  # fmt: skip
