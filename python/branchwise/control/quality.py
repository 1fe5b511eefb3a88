"""How good probabilities are: whether they are as often right as they say, and whether they tell right from wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

BINS = 10


def quality(
    probabilities: Sequence[float], right: Sequence[bool], problems: Sequence[Hashable]
) -> dict[str, float | None]:
    """The measures of a calibration.

    ece         expected calibration error over `BINS` bins of equal numbers: mean |how often right - what was said|
    brier       mean squared error    accuracy: how often right
    auc         P(a right one is above a wrong one), ties half; None where all are right or all wrong
    auc_within  the same among those of one problem
    """
    n = len(right)
    return {
        "ece": expected_error(probabilities, right),
        "brier": sum((p - r) ** 2 for p, r in zip(probabilities, right, strict=True)) / n,
        "accuracy": sum(right) / n,
        "auc": auc(zip(probabilities, right, strict=True)),
        "auc_within": auc_within(probabilities, right, problems),
    }


def expected_error(probabilities: Sequence[float], right: Sequence[bool]) -> float:
    """See `quality`."""
    ordered = sorted(zip(probabilities, right, strict=True), key=lambda pair: pair[0])
    error = 0.0
    for i in range(BINS):
        part = ordered[i * len(ordered) // BINS : (i + 1) * len(ordered) // BINS]
        if part:
            error += abs(sum(p for p, _ in part) - sum(r for _, r in part))
    return error / len(ordered)


def auc(pairs: Iterable[tuple[float, bool]]) -> float | None:
    """P(the score of a right one is above that of a wrong one); None where either is missing."""
    won, possible = _wins(pairs)
    return won / possible if possible else None


def auc_within(scores: Sequence[float], right: Sequence[bool], groups: Sequence[Hashable]) -> float | None:
    """Over all pairs of the same group."""
    members = defaultdict(list)
    for group, score, label in zip(groups, scores, right, strict=True):
        members[group].append((score, label))
    found = [_wins(each) for each in members.values()]
    possible = sum(each[1] for each in found)
    return sum(each[0] for each in found) / possible if possible else None


def _wins(pairs: Iterable[tuple[float, bool]]) -> tuple[float, int]:
    """Pairs of a right and a wrong one that are in order, ties half; and how many pairs there are."""
    won, below, rights, wrongs = 0.0, 0, 0, 0
    by_score: defaultdict[float, list[int]] = defaultdict(lambda: [0, 0])
    for score, label in pairs:
        by_score[score][label] += 1
    for score in sorted(by_score):
        wrong, good = by_score[score]
        won += good * (below + wrong / 2)
        below += wrong
        rights, wrongs = rights + good, wrongs + wrong
    return won, rights * wrongs
