"""The sum of many results: right answers and what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from branchwise.report import numbers
from branchwise.report.intervals import wilson
from branchwise.types import Cost, Cut


@dataclass(slots=True)
class Tally:
    """Counts over results. `wall_seconds` is time that passed, not the sum over searches that ran side by side."""

    problems: int = 0  # those that failed included
    failed: int = 0
    graded: int = 0
    right: int = 0
    cut: int = 0  # problems of which a limit cut something
    cuts: Counter[Cut] = field(default_factory=Counter)  # and how many branches each limit cut
    cost: Cost = field(default_factory=Cost)
    wall_seconds: float = 0.0

    def add(
        self, correct: bool | None, cost: Cost, cuts: Mapping[Cut, int] | None = None, *, failed: bool = False
    ) -> None:
        """Count one result; `correct` is None when no gold answer was known, or the search failed."""
        self.problems += 1
        self.failed += failed
        self.graded += correct is not None
        self.right += correct is True
        self.cut += bool(cuts)
        self.cuts.update(cuts or {})
        self.cost.add(cost)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson(self.right, self.graded)

    @property
    def problems_per_hour(self) -> float:
        """Throughput; 0 before any time has passed."""
        return 3600 * self.problems / self.wall_seconds if self.wall_seconds > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON; accuracy and interval are None when nothing was graded."""
        return {
            "problems": self.problems,
            "failed": self.failed,
            "graded": self.graded,
            "right": self.right,
            "accuracy": self.right / self.graded if self.graded else None,
            "interval95": list(self.interval) if self.graded else None,
            "cut": self.cut,
            "cuts": dict(self.cuts),
            "generated_tokens": self.cost.generated_tokens,
            "prefill_tokens": self.cost.prefill_tokens,
            "prm_tokens": self.cost.prm_tokens,
            "cached_tokens": self.cost.cached_tokens,
            "flops": self.cost.flops,
            "seconds": self.wall_seconds,
            "problems_per_hour": self.problems_per_hour,
        }

    def cells(self) -> list[str]:
        """Accuracy, interval, generated tokens, PRM tokens, FLOPs, seconds: the cells of a table row."""
        return [
            numbers.share(self.right, self.graded),
            numbers.interval(self.right, self.graded),
            numbers.count(self.cost.generated_tokens),
            numbers.count(self.cost.prm_tokens),
            numbers.large(self.cost.flops),
            f"{self.wall_seconds:,.1f}",
        ]


TALLY_COLUMNS = ("accuracy", "95 % interval", "tokens", "PRM tokens", "FLOPs", "seconds")
"""Headers of `Tally.cells`."""
