"""Greedy decoding: one chain at temperature 0, no reward model. The baseline of everything else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from branchwise.strategies.candidates import choose_among
from branchwise.strategies.chains import Chains
from branchwise.strategies.options import check_limit
from branchwise.strategies.protocol import State
from branchwise.types import Sampling, Selection


@dataclass(frozen=True, slots=True)
class Greedy(Chains):
    """One solution of at most `max_steps` steps, the likeliest token each time. Raises ConfigError for a bad option."""

    n: int = field(default=1, init=False)
    name: ClassVar[str] = "greedy"
    sampling: ClassVar[Sampling | None] = Sampling(temperature=0.0)

    def __post_init__(self) -> None:
        check_limit(self.name, "max_steps", self.max_steps)

    def select(self, state: State) -> Selection:
        """Return the only candidate."""
        return choose_among(state, "last", "majority")
