"""How well scores tell right from wrong, and how well they are probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BINS = 10


def auc(scores: Floats, right: NDArray[np.bool_]) -> float:
    """P(a right one has the higher score than a wrong one), ties count half; NaN without both.

    scores, right: [n]
    """
    wins, pairs = _pairs(scores, right)
    return wins / pairs if pairs else float("nan")


def auc_within(scores: Floats, right: NDArray[np.bool_], problems: Sequence[str]) -> float:
    """The same over pairs of one problem alone: what choosing among its solutions needs."""
    names = np.asarray(problems)
    found = [_pairs(scores[names == name], right[names == name]) for name in dict.fromkeys(problems)]
    pairs = sum(each for _, each in found)
    return sum(wins for wins, _ in found) / pairs if pairs else float("nan")


def _pairs(scores: Floats, right: NDArray[np.bool_]) -> tuple[float, int]:
    """Pairs that are in the right order, and all pairs of a right and a wrong one."""
    good, bad = scores[right], np.sort(scores[~right])
    below, not_above = np.searchsorted(bad, good, "left"), np.searchsorted(bad, good, "right")
    return float((below + not_above).sum()) / 2, len(good) * len(bad)


def brier(scores: Floats, right: NDArray[np.bool_]) -> float:
    """Mean square of score - truth."""
    return float(np.mean((scores - right) ** 2))


def reliability(scores: Floats, right: NDArray[np.bool_]) -> list[tuple[float, float, int]]:
    """By tenths of the score: mean score, share of right ones, and how many; empty ones are left out."""
    place = np.minimum((scores * BINS).astype(int), BINS - 1)
    inside = [place == each for each in range(BINS)]
    return [(float(scores[each].mean()), float(right[each].mean()), int(each.sum())) for each in inside if each.any()]


def calibration_error(scores: Floats, right: NDArray[np.bool_]) -> float:
    """Expected calibration error: |mean score - share of right ones| of each tenth, weighted by its size."""
    return sum(n * abs(score - share) for score, share, n in reliability(scores, right)) / len(scores)
