"""Choosing the final answer: candidates are grouped into answer classes, and the classes are weighed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from branchwise.answers.compare import compatible
from branchwise.answers.form import Form
from branchwise.answers.reading import read
from branchwise.errors import ConfigError, InputError
from branchwise.types import Candidate, Selection

Vote = Literal["majority", "max", "weighted"]
"""What a class of equal answers weighs: its number of candidates, its best score, or the sum of its scores."""

VOTES: tuple[Vote, ...] = get_args(Vote)


def choose(candidates: Sequence[Candidate], vote: Vote, *, same: Callable[[str, str], bool] | None = None) -> Selection:
    """Return the winning candidate, all candidates in lineage order, and the classes, heaviest first.

    Answers with the same canonical form are a class, unless they name units that differ: 5 minutes are not 5 hours, but
    either may be meant by 5, which joins them where only one of them is there. The heaviest class wins; ties go to the
    class with the highest single score, then to the one with the smallest lineage path, and the same two rules pick the
    candidate of a class. Candidates without an answer, or with nothing but delimiters, never vote, unless none has one:
    then the best score is chosen and `votes` is empty.
    A candidate without a score weighs nothing and loses every tie. `votes` names a class by its winner's answer.

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
    classes = _classes(ordered, same)
    if not classes:
        return Selection(_best(ordered), ordered, [], "no candidate states an answer: the best score")
    weighed = [(_weight(members, vote), _best(members)) for members in classes]
    # Stable sort: classes are in lineage order of their first member, so compare winners explicitly.
    weighed.sort(key=lambda pair: (-pair[0], *_rank(pair[1])))
    weight, chosen = weighed[0]
    votes = [(winner.answer or "", total) for total, winner in weighed]
    return Selection(chosen, ordered, votes, _why(vote, weight, classes, _number(ordered)))


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


def _weight(members: Sequence[Candidate], vote: Vote) -> float:
    scores = [(candidate.score, candidate.count) for candidate in members if candidate.score is not None]
    if vote == "majority":
        return float(_number(members))
    if vote == "max":
        return max((score for score, _ in scores), default=0.0)
    return math.fsum(score * count for score, count in scores)


def _why(vote: Vote, weight: float, classes: Sequence[Sequence[Candidate]], total: int) -> str:
    voters = sum(_number(members) for members in classes)
    basis = {"majority": f"{weight:.0f} votes", "max": f"best score {weight:.4f}", "weighted": f"weight {weight:.4f}"}
    return f"{vote}: {basis[vote]} among {len(classes)} answers of {voters} candidates ({total - voters} without one)"


def _number(members: Sequence[Candidate]) -> int:
    return sum(candidate.count for candidate in members)
