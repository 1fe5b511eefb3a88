"""How sure a share of right answers is: the Wilson score interval, also where each problem was tried several times."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution


def wilson(right: float, total: float, z: float = Z95) -> tuple[float, float]:
    """Lower and upper bound of a share of which `right` out of `total` were seen; (0, 1) when nothing was seen.

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference (1927). Unlike the normal
    approximation it is right for few trials and for shares near 0 and 1.
    """
    assert 0 <= right <= total, f"{right} of {total}"
    if total == 0:
        return 0.0, 1.0
    share, square = right / total, z * z
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = z / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    # The bounds of 0 and of all are exact; rounding must not move them.
    return (0.0 if right == 0 else centre - half), (1.0 if right == total else centre + half)


def clustered(shares: Sequence[float], most: float, z: float = Z95) -> tuple[float, float]:
    """Interval of the mean of one share a problem, over other problems and other tries of each.

    shares: of each problem, in 0..1    most: tries of a problem, which would count in full if problems were all alike

    Wilson's interval of as many independent tries as would scatter like these means: with one try a problem it is
    Wilson's own, equal tries count once, and tries that tell as much as further problems count in full. Source: the
    effective sample size of Korn and Graubard, Confidence Intervals for Proportions with Small Expected Number of
    Positive Counts Estimated from Survey Data (1998).
    """
    total = len(shares)
    if total == 0:
        return 0.0, 1.0
    mean = math.fsum(shares) / total
    spread = math.fsum((share - mean) ** 2 for share in shares) / max(1, total - 1)
    if mean in (0.0, 1.0):
        return wilson(mean * total, total, z)
    effective = total * max(1.0, min(most, mean * (1 - mean) / spread if spread > 0 else most))
    return wilson(mean * effective, effective, z)
