"""Greedy decoding: one chain at temperature 0, no reward model. The baseline of everything else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from branchwise.search.candidates import choose_among
from branchwise.search.chains import Chains
from branchwise.search.options import check_count
from branchwise.types import SearchState, Selection


@dataclass(frozen=True, slots=True)
class Greedy(Chains):
    """One solution of at most `max_steps` steps. Raises ConfigError for a bad option."""

    n: int = field(default=1, init=False)
    name: ClassVar[str] = "greedy"
    uses_scores: ClassVar[bool] = False
    temperature: ClassVar[float | None] = 0.0

    def __post_init__(self) -> None:
        check_count(self.name, "max_steps", self.max_steps)

    def select(self, state: SearchState) -> Selection:
        """Return the only candidate."""
        return choose_among(state.finished, "last", "majority")
