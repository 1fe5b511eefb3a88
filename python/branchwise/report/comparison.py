"""Strategies side by side: what each came to over problems and seeds, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from branchwise.report import numbers
from branchwise.report.intervals import clustered
from branchwise.report.record import Record
from branchwise.report.tally import Tally
from branchwise.types import Cost


@dataclass(slots=True)
class Line:
    """All results of a strategy and an N. Costs are those of a run of its own, whatever was shared.

    shared: cells that results were taken from, with how many    real: what was spent here
    seconds: None where some results were not timed
    """

    strategy: str
    n: int | None
    seeds: set[int] = field(default_factory=set)
    tally: Tally = field(default_factory=Tally)
    silent: int = 0  # problems without an answer
    equal: int = 0
    unjudged: Counter[str] = field(default_factory=Counter)  # steps that judges could not score, by the reason
    seconds: float | None = 0.0
    latencies: list[float] = field(default_factory=list)  # seconds of each problem
    outcomes: dict[str, list[bool]] = field(default_factory=dict)  # of each problem, over seeds
    shared: Counter[str] = field(default_factory=Counter)
    real: Tally = field(default_factory=Tally)

    def add(self, record: Record, seed: int) -> None:
        """Count a result."""
        cost, failed = Cost(**record["cost"]), record["error"] is not None
        self.seeds.add(seed)
        self.tally.add(record["correct"], cost, record["cuts"], failed=failed)
        self.silent += record["answer"] is None and not failed
        self.equal += record["equal"]
        self.unjudged.update(record["unjudged"])
        if record["correct"] is not None:
            self.outcomes.setdefault(record["id"], []).append(record["correct"])
        if record["wall_seconds"] is None:
            self.seconds = None
        else:
            self.seconds = None if self.seconds is None else self.seconds + record["wall_seconds"]
            self.latencies.append(record["cost"]["seconds"])
        if record["shared"] is not None:
            self.shared[record["shared"]] += 1
        elif record["wall_seconds"] is not None:
            self.real.add(record["correct"], cost)
            self.real.wall_seconds += record["wall_seconds"]

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy, over problems and seeds."""
        return clustered([sum(each) / len(each) for each in self.outcomes.values()], most=len(self.seeds))

    def latency(self, share: float) -> float | None:
        """Seconds within which so many of the problems are done; None where they were not timed."""
        return quantile(self.latencies, share) if self.seconds is not None and self.latencies else None

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        tally, cost = self.tally, self.tally.cost
        return {
            "strategy": self.strategy,
            "n": self.n,
            "seeds": sorted(self.seeds),
            "results": tally.problems,
            "failed": tally.failed,
            "graded": tally.graded,
            "right": tally.right,
            "accuracy": tally.right / tally.graded if tally.graded else None,
            "interval95": list(self.interval) if tally.graded else None,
            "no_answer": self.silent,
            "cut": tally.cut,
            "cuts": dict(tally.cuts),
            "equal": self.equal,
            "unjudged": dict(self.unjudged),
            "generated_tokens": cost.generated_tokens,
            "prefill_tokens": cost.prefill_tokens,
            "prm_tokens": cost.prm_tokens,
            "flops": cost.flops,
            "seconds": self.seconds,
            "latency_p50": self.latency(0.5),
            "latency_p95": self.latency(0.95),
            "shared": dict(self.shared),
        }

    def cells(self, *, equal: bool) -> list[str]:
        """The cells of a row of the table: see `columns`."""
        tally, cost = self.tally, self.tally.cost
        low, high = self.interval
        cells = [
            self.strategy,
            "-" if self.n is None else str(self.n),
            numbers.share(tally.right, tally.graded),
            f"{100 * low:.1f} to {100 * high:.1f}" if tally.graded else "-",
            str(self.silent),
            str(tally.cut),
            *([numbers.count(self.equal)] if equal else []),
            *(amount(value) for value in (cost.generated_tokens, cost.prm_tokens, cost.flops)),
        ]
        times = (self.seconds, self.latency(0.5), self.latency(0.95))
        return cells + ["-" if value is None else _short(value) for value in times]


def columns(*, equal: bool) -> list[str]:
    """Headers of `Line.cells`."""
    words = ["strategy", "N", "accuracy", "95 % interval", "no answer", "cut", *(["equal"] if equal else [])]
    return [*words, "tokens", "judge tokens", "FLOPs", "seconds", "p50", "p95"]


def total(lines: Sequence[Line]) -> Tally:
    """What was spent for all of them, shared results once."""
    made = Tally()
    for line in lines:
        made.problems += line.real.problems
        made.cost.add(line.real.cost)
        made.wall_seconds += line.real.wall_seconds
    return made


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies, between two of them in proportion."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def amount(value: float) -> str:
    """A count, or from a thousand on three digits and an SI prefix."""
    return f"{value:.0f}" if value < 999.5 else numbers.large(value)


def _short(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 99.95 else f"{seconds:.1f}" if seconds >= 9.995 else f"{seconds:.2f}"
