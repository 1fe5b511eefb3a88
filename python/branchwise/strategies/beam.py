"""Step-level beam search: after every level the best of all n branches share the n slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from branchwise.strategies.keep_best import KeepBest


@dataclass(frozen=True, slots=True)
class BeamSearch(KeepBest):
    """After every step the best n / expand of n branches are kept, and get `expand` children each.

    Raises ConfigError for a bad option. Sources: Snell et al., Scaling LLM Test-Time Compute Optimally; the rule for
    slots and ties is in `LevelSearch`.
    """

    name: ClassVar[str] = "beam"

    @property
    def group_size(self) -> int:
        """All n slots compete."""
        return self.n
