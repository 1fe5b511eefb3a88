"""How good probabilities are: whether they are as often right as they say, and whether they tell right from wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

BINS = 10


def quality(
    probabilities: Sequence[float], right: Sequence[bool], problems: Sequence[Hashable]
) -> dict[str, float | None]:
    """The measures of a calibration.

    ece         expected calibration error: mean |how often right - what was said| over the bins of `reliability`
    brier       mean squared error    accuracy: how often right
    auc         P(a right one is above a wrong one), ties half; None where all are right or all wrong
    auc_within  the same among those of one problem
    """
    return {
        "ece": expected_error(probabilities, right),
        "brier": brier(probabilities, right),
        "accuracy": sum(right) / len(right),
        "auc": auc(probabilities, right),
        "auc_within": auc_within(probabilities, right, problems),
    }


def reliability(probabilities: Sequence[float], right: Sequence[bool]) -> list[tuple[float, float, int]]:
    """By `BINS` bins of equal numbers, least first: what was said on average, how often right, and how many."""
    ordered = sorted(zip(probabilities, right, strict=True), key=lambda pair: pair[0])
    parts = (ordered[i * len(ordered) // BINS : (i + 1) * len(ordered) // BINS] for i in range(BINS))
    return [
        (sum(p for p, _ in part) / len(part), sum(r for _, r in part) / len(part), len(part)) for part in parts if part
    ]


def expected_error(probabilities: Sequence[float], right: Sequence[bool]) -> float:
    """See `quality`."""
    return sum(n * abs(said - share) for said, share, n in reliability(probabilities, right)) / len(right)


def brier(probabilities: Sequence[float], right: Sequence[bool]) -> float:
    """See `quality`."""
    return sum((p - r) ** 2 for p, r in zip(probabilities, right, strict=True)) / len(right)


def auc(scores: Sequence[float], right: Sequence[bool]) -> float | None:
    """P(the score of a right one is above that of a wrong one); None where either is missing."""
    won, possible = _wins(zip(scores, right, strict=True))
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
