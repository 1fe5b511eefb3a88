"""The sharing rule of beam search and DVTS: the best branches are kept, and get as many children each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from branchwise.strategies.levels import LevelSearch
from branchwise.strategies.options import check_groups
from branchwise.strategies.protocol import Demand, Limits
from branchwise.types import Node


@dataclass(frozen=True, slots=True)
class KeepBest(LevelSearch):
    """Of s branches the best max(1, s // expand) are kept; each gets s // kept children, and the best `s % kept` one
    more."""

    expand: int = 4
    name: ClassVar[str] = "keep_best"

    def __post_init__(self) -> None:
        LevelSearch.__post_init__(self)
        check_groups(self.name, self.n, self.expand)

    def demand(self, limits: Limits) -> Demand:
        """A whole path for each branch that is kept when a level is over, and one step for each of the n."""
        return Demand(self.n, self.n // self.expand, self.max_steps, scores=True)

    def share(self, ranked: Sequence[Node], heads: Sequence[Node], slots: int) -> list[int]:
        """See the class; whatever the scores are."""
        kept = min(len(ranked), max(1, slots // self.expand))
        each, extra = divmod(slots, kept)
        return [each + (place < extra) if place < kept else 0 for place in range(len(ranked))]
