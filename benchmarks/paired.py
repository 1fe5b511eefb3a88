"""How far two ways differ, problem by problem."""

from __future__ import annotations

import math
from collections.abc import Mapping

from branchwise.report.intervals import Z95


def difference(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, float]:
    """Mean of one - other over the problems of both, and half of its 95 % interval: normal, by problems."""
    pairs = [one[problem] - other[problem] for problem in one if problem in other]
    mean = math.fsum(pairs) / len(pairs)
    spread = math.fsum((each - mean) ** 2 for each in pairs) / max(1, len(pairs) - 1)
    return mean, Z95 * math.sqrt(spread / len(pairs))
