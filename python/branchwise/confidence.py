"""How sure a policy was of what it wrote: of each token, of windows of tokens on a path, and of a whole path.

Running sums go on from those of the step before, so that a window may begin in any step: branches share what is before
their fork, and a path has the same numbers however it was cut into steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

MOST_TOP = 32  # what a GPU's kernel has room for

Measure = Literal["mean", "tail", "lowest", "bottom", "certainty"]
"""How sure a policy was of a whole solution: see `TraceConfidence`."""

MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True, slots=True)
class ConfidenceOptions:
    """A wish to know how sure the policy was: over so many likeliest words, MOST_TOP at most, and tokens of a group."""

    top: int = 20
    window: int = 2048


@dataclass(slots=True, eq=False)
class Confidence:
    """Of every token of a step, from the policy's own distribution z at temperature 1, before penalties and filters.

    values       confidence: logsumexp(z) - mean of the top largest z (DeepConf, arXiv 2508.15260, C_i)
    certainties  self-certainty: logsumexp(z) - mean(z) - log V, which is KL(uniform || p) (arXiv 2502.18581)
    sums         of all values from the first of the path to each of them

    Certainty is 0 or more, confidence log(top) or more, in nats, larger where likely words stand out. The drawn word
    has no part in them, nor have words that the model itself rules out (z = -inf).
    """

    options: ConfidenceOptions
    before: Confidence | None = field(repr=False)  # of the step before; None: the path begins here
    values: list[float] = field(default_factory=list)
    certainties: list[float] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)
    start: int = field(init=False)  # tokens on the path before this step
    _sum: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        before = self.before
        self.start = 0 if before is None else before.end
        self._sum = 0.0 if before is None else before.sum_to(before.end)

    @property
    def end(self) -> int:
        """Tokens of the path, this step's among them."""
        return self.start + len(self.values)

    @property
    def mean(self) -> float:
        """Mean confidence of the tokens of this step; 0 for none."""
        return math.fsum(self.values) / len(self.values) if self.values else 0.0

    def add(self, value: float, certainty: float) -> None:
        """The numbers of one more token."""
        self._sum += value
        self.values.append(value)
        self.certainties.append(certainty)
        self.sums.append(self._sum)

    def sum_to(self, count: int) -> float:
        """The sum of the first `count` confidences of the path, up to `end`."""
        place: Confidence | None = self
        while place is not None and count <= place.start:
            place = place.before
        return 0.0 if place is None else place.sums[count - place.start - 1]

    def groups(self) -> list[float]:
        """Mean confidence of every window of tokens that ends in this step, in order; none ends before it is full."""
        window = self.options.window
        ends = range(max(window, self.start + 1), self.end + 1)
        return [(self.sum_to(end) - self.sum_to(end - window)) / window for end in ends]

    def path(self) -> list[Confidence]:
        """Those of the steps of the path, the first one first."""
        steps: list[Confidence] = []
        step: Confidence | None = self
        while step is not None:
            steps.append(step)
            step = step.before
        return steps[::-1]


@dataclass(frozen=True, slots=True)
class TraceConfidence:
    """How sure a policy was of a whole solution; every window of tokens on it, at any place, is a group.

    mean, certainty  of all tokens: confidence, self-certainty
    tail             confidence of the last group
    lowest, bottom   of the least sure group; of the least sure tenth of all groups, one at least

    A solution shorter than a window is one group, one without tokens has 0 everywhere.
    """

    tokens: int
    mean: float
    tail: float
    lowest: float
    bottom: float
    certainty: float

    @classmethod
    def of(cls, confidence: Confidence) -> TraceConfidence:
        """Of the path that ends with a step."""
        steps, end = confidence.path(), confidence.end
        if not end:
            return cls(0, 0.0, 0.0, 0.0, 0.0, 0.0)
        total = confidence.sum_to(end)
        certainty = math.fsum(value for step in steps for value in step.certainties) / end
        length = min(confidence.options.window, end)
        groups = _groups([0.0, *(each for step in steps for each in step.sums)], length)
        lowest = sorted(groups)[: max(1, len(groups) // 10)]
        return cls(end, total / end, groups[-1], lowest[0], math.fsum(lowest) / len(lowest), certainty)

    def measure(self, name: Measure) -> float:
        """One of its numbers."""
        value: float = getattr(self, name)
        return value


def _groups(sums: Sequence[float], length: int) -> list[float]:
    """sums: of the first 0, 1, 2, ... tokens."""
    return [(after - before) / length for before, after in zip(sums, sums[length:], strict=False)]
