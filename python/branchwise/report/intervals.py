"""How sure a share of right answers is: the Wilson score interval."""

from __future__ import annotations

import math

Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution


def wilson(right: int, total: int, z: float = Z95) -> tuple[float, float]:
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
