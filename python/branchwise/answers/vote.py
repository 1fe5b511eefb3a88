"""Choosing the final answer: candidates are grouped into answer classes, and the classes are weighed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Literal, get_args

from branchwise.answers.compare import compatible
from branchwise.answers.form import Form
from branchwise.answers.reading import read
from branchwise.errors import ConfigError, InputError
from branchwise.types import Candidate, Selection

Vote = Literal["majority", "max", "weighted", "borda"]
"""What a class of equal answers weighs: its number of candidates, its best score, the sum of its scores, or that of
(N - r) ** power over its candidates, r = 0, 1, ... their places among all N by score (Borda, arXiv 2502.18581)."""

VOTES: tuple[Vote, ...] = get_args(Vote)
POWER = 0.5  # of Borda votes: 0 is the majority, a large one the best score


def choose(
    candidates: Sequence[Candidate],
    vote: Vote,
    *,
    keep_percent: float = 100,
    power: float = POWER,
    same: Callable[[str, str], bool] | None = None,
) -> Selection:
    """Return the winning candidate, all candidates in lineage order, and the classes, heaviest first.

    Answers with the same canonical form are a class, unless they name units that differ: 5 minutes are not 5 hours, but
    either may be meant by 5, which joins them where only one of them is there. The heaviest class wins; ties go to the
    class with the highest single score, then to the one with the smallest lineage path, and the same two rules pick the
    candidate of a class. Candidates without an answer, or with nothing but delimiters, never vote, unless none has one:
    then the best score is chosen and `votes` is empty.
    A candidate without a score weighs nothing and loses every tie. `votes` names a class by its winner's answer.

    keep_percent: below 100 those alone vote that state an answer and whose score is at least the (100 - keep_percent)th
    percentile of theirs, by linear interpolation: about so many percent, more with equal scores, and one at least
    power: of Borda votes, in which one without an answer takes its place all the same, and equal scores share theirs

    `same` (a `Grader`, say) also merges classes that algebra finds equal. Off by default: it asks once for each pair of
    classes, each may take seconds, and as "equal" within a tolerance is not transitive, the classes would depend on
    the order of asking (here: lineage order).

    Raises InputError for a NaN score and ConfigError for an unknown vote.
    """
    if vote not in VOTES:
        raise ConfigError(f"vote is {vote!r}: choose one of {', '.join(VOTES)}")
    for candidate in candidates:
        if candidate.score is not None and math.isnan(candidate.score):
            path = candidate.node.lineage_path
            raise InputError(f"candidate {path} has the score NaN: the reward model or its dtype is damaged")
    ordered = sorted(candidates, key=lambda candidate: candidate.node.lineage_path)
    if not ordered:
        return Selection(None, [], [], "no candidate")
    voters = ordered if keep_percent >= 100 else _surest(ordered, keep_percent)
    classes = _classes(voters, same)
    if not classes:
        return Selection(_best(ordered), ordered, [], "no candidate states an answer: the best score")
    places = _places(voters, power) if vote == "borda" else {}
    weighed = [(_weight(members, vote, places), _best(members)) for members in classes]
    # Stable sort: classes are in lineage order of their first member, so compare winners explicitly.
    weighed.sort(key=lambda pair: (-pair[0], *_rank(pair[1])))
    weight, chosen = weighed[0]
    votes = [(winner.answer or "", total) for total, winner in weighed]
    kept = "" if voters is ordered else f"; {_number(voters)} kept of {_number(ordered)}"
    return Selection(chosen, ordered, votes, _why(vote, weight, classes, _number(voters)) + kept)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent of all are below, by linear interpolation between the two nearest."""
    ordered, place = sorted(values), percent / 100 * (len(values) - 1)
    low = min(int(place), len(ordered) - 2) if len(ordered) > 1 else 0
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _surest(ordered: Sequence[Candidate], keep_percent: float) -> list[Candidate]:
    stating = [each for each in ordered if each.score is not None and read(each.answer or "").kind != "blank"]
    scores = [each.score for each in stating for _ in range(each.count) if each.score is not None]
    if not scores:
        return list(ordered)
    least = min(percentile(scores, 100 - keep_percent), max(scores))  # rounding must not leave nobody
    return [each for each in stating if each.score is not None and each.score >= least]


def _places(voters: Sequence[Candidate], power: float) -> dict[int, float]:
    """The Borda votes of every candidate that has a score, by identity; equal scores share those of their places."""
    total, place = _number(voters), 0
    votes: dict[int, float] = {}
    scored = sorted((each for each in voters if each.score is not None), key=_rank)
    for _, group in groupby(scored, key=lambda each: each.score):
        equal = list(group)
        count = _number(equal)
        worth = math.fsum(float(total - place - i) ** power for i in range(count)) / count
        votes.update({id(each): worth * each.count for each in equal})
        place += count
    return votes


def _classes(ordered: Sequence[Candidate], same: Callable[[str, str], bool] | None) -> list[list[Candidate]]:
    alike: dict[str, list[tuple[Form, Candidate]]] = {}
    for candidate in ordered:
        form = read(candidate.answer or "")
        if form.kind != "blank":
            alike.setdefault(form.text, []).append((form, candidate))
    groups = [group for members in alike.values() for group in _by_unit(members)]
    if same is None:
        return groups
    merged: list[list[Candidate]] = []
    for members in groups:
        answer = members[0].answer or ""
        home = next((other for other in merged if same(answer, other[0].answer or "")), None)
        if home is None:
            merged.append(members)
        else:
            home.extend(members)
    return merged


def _by_unit(members: Sequence[tuple[Form, Candidate]]) -> list[list[Candidate]]:
    """The classes of answers of one form: one for each unit; those that fit several of these have their own."""
    named = {form.units for form, _ in members}
    widest = [units for units in named if not any(units < other for other in named)]
    classes: dict[frozenset[str], list[Candidate]] = {}
    for form, candidate in members:
        fitting = [units for units in widest if compatible(form.units, units)]
        classes.setdefault(fitting[0] if len(fitting) == 1 else form.units, []).append(candidate)
    return list(classes.values())


def _rank(candidate: Candidate) -> tuple[float, tuple[int, ...]]:
    """Sorts the best first: highest score, then smallest lineage path."""
    return (math.inf if candidate.score is None else -candidate.score, candidate.node.lineage_path)


def _best(members: Sequence[Candidate]) -> Candidate:
    return min(members, key=_rank)


def _weight(members: Sequence[Candidate], vote: Vote, places: Mapping[int, float]) -> float:
    scores = [(candidate.score, candidate.count) for candidate in members if candidate.score is not None]
    if vote == "majority":
        return float(_number(members))
    if vote == "borda":
        return math.fsum(places.get(id(each), 0.0) for each in members)
    if vote == "max":
        return max((score for score, _ in scores), default=0.0)
    return math.fsum(score * count for score, count in scores)


def _why(vote: Vote, weight: float, classes: Sequence[Sequence[Candidate]], total: int) -> str:
    voters = sum(_number(members) for members in classes)
    bases = {"majority": f"{weight:.0f} votes", "max": f"best score {weight:.4f}"}
    basis = bases.get(vote, f"weight {weight:.4f}")
    return f"{vote}: {basis} among {len(classes)} answers of {voters} candidates ({total - voters} without one)"


def _number(members: Sequence[Candidate]) -> int:
    return sum(candidate.count for candidate in members)
