"""Majority vote (self-consistency): n independent solutions, the most frequent answer wins, no reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from branchwise.strategies.candidates import choose_among
from branchwise.strategies.chains import Chains
from branchwise.strategies.options import check_count, check_limit
from branchwise.strategies.protocol import State
from branchwise.types import Selection


@dataclass(frozen=True, slots=True)
class Majority(Chains):
    """n independent solutions; the most frequent answer wins. Ties: the class that holds the smallest lineage path.

    Source: Wang et al., Self-Consistency Improves Chain of Thought Reasoning. Raises ConfigError for a bad option.
    """

    n: int = 16
    name: ClassVar[str] = "majority"

    def __post_init__(self) -> None:
        check_count(self.name, "n", self.n)
        check_limit(self.name, "max_steps", self.max_steps)

    def select(self, state: State) -> Selection:
        """Return the most frequent answer among the finished chains."""
        return choose_among(state, "last", "majority")
