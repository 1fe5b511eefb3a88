"""Diverse verifier tree search: n / expand subtrees, each a beam search of its own that keeps one branch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from branchwise.strategies.keep_best import KeepBest


@dataclass(frozen=True, slots=True)
class DVTS(KeepBest):
    """n / expand beams of `expand` branches side by side, each of which keeps its best.

    A beam neither competes with another nor waits for it. Raises ConfigError for a bad option. Sources: Beeching et
    al., Scaling Test-Time Compute with Open Models; the rule for slots and ties is in `LevelSearch`. A sibling that
    was not kept has no vote.
    """

    name: ClassVar[str] = "dvts"

    @property
    def group_size(self) -> int:
        """Slots of a subtree."""
        return self.expand
