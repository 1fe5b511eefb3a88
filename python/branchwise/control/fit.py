"""Fits a calibration to the results of an evaluation with known answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from branchwise.answers.vote import Vote, choose
from branchwise.control.calibration import FEATURES, Calibration, features
from branchwise.control.logistic import fit, probability
from branchwise.control.quality import quality
from branchwise.errors import ConfigError
from branchwise.report.kept import candidates
from branchwise.report.record import Header, Kept, Record, Settings
from branchwise.strategies.outlook import KINDS, LARGE, Kind, Standing, standing, waves_of

LEAST = 30  # problems
FOLDS = 5
Grade = Callable[[str | None, str], bool]
Cell = tuple[str, Header, Mapping[str, Record]]  # as `report.folder.read_cells` gives them


@dataclass(frozen=True, slots=True)
class Seen:
    """A vote on a problem whose answer is known. tokens: of the policy    after: by kind, right with one more wave"""

    problem: str
    now: Standing
    right: bool
    tokens: float
    kind: Kind | None = None  # of a first wave
    after: Mapping[Kind, bool] = field(default_factory=dict)


def fit_calibration(cells: Iterable[Cell], grade: Grade, wave: int = 4) -> Calibration:
    """Fit to the cells of a folder. Waves are cut out of best-of-N (chains; without scores: majority) and DVTS (trees),
    a beam search or particle filter with N of `LARGE` waves is one, and all other searches teach `answered` alone.
    Where some results have scores, those without teach nothing.

    ConfigError: fewer than `LEAST` problems have gold answers, no cell has waves, or nothing is to be learned, as all
    answers are right or all wrong.
    """
    read = list(cells)
    seen = list(_seen(read, grade, wave))
    problems = sorted({each.problem for each in seen})
    if len(problems) < LEAST:
        raise ConfigError(
            f"{len(problems)} problems with known answers: a calibration takes {LEAST}, better some hundred;"
            " run branchwise eval on more problems that have an answer"
        )
    kinds = [kind for kind in KINDS if any(kind in each.after for each in seen)]
    if not kinds:
        raise ConfigError(
            f"no results of waves of {wave}: run branchwise eval -s dvts,best_of_n -n {4 * wave} --expand {wave}, or"
            f" -s majority -n {4 * wave} without a judge"
        )
    if len({each.right for each in seen}) < 2:
        raise ConfigError("all answers are right, or all are wrong: there is nothing to learn; take other problems")
    settings = read[0][1]["settings"]
    judged = any(each.now.score is not None for each in seen)
    return Calibration(
        policy=settings["policy"],
        judge=settings["prm"] if judged else None,
        judged=judged,
        wave=wave,
        answered=_fit(seen),
        mended={kind: _fit_after(seen, kind, right=False) for kind in kinds},
        kept={kind: _fit_after(seen, kind, right=True) for kind in kinds},
        first={kind: _mean(each.right for each in seen if each.kind == kind) for kind in kinds},
        tokens={kind: _mean(each.tokens for each in seen if each.kind == kind) for kind in kinds},
        quality=_left_out(seen, problems),
        trained={"cells": [name for name, _, _ in read], "problems": len(problems), "votes": len(seen)},
    )


def _fit(seen: Sequence[Seen]) -> list[float]:
    return fit([features(each.now) for each in seen], [each.right for each in seen])


def _fit_after(seen: Sequence[Seen], kind: Kind, *, right: bool) -> list[float]:
    known = [(features(each.now), each.after[kind]) for each in seen if kind in each.after and each.right == right]
    return fit([x for x, _ in known], [later for _, later in known]) if known else fit([[1.0] * len(FEATURES)], [right])


def _left_out(seen: Sequence[Seen], problems: Sequence[str]) -> dict[str, float | None]:
    """The quality of probabilities, each from a fit without its problem."""
    fold = {problem: i % FOLDS for i, problem in enumerate(problems)}
    said: list[float] = []
    order: list[Seen] = []
    for i in range(FOLDS):
        w = _fit([each for each in seen if fold[each.problem] != i])
        for each in seen:
            if fold[each.problem] == i:
                said.append(probability(w, features(each.now)))
                order.append(each)
    return quality(said, [each.right for each in order], [each.problem for each in order])


def _seen(cells: Sequence[Cell], grade: Grade, wave: int) -> Iterator[Seen]:
    """All votes that the cells know: of whole searches, and of some waves with one more wave of either kind."""
    grown: dict[tuple[str, str], dict[Kind, list[list[Kept]]]] = {}  # by problem and its gold answer
    spent: dict[tuple[str, Kind], list[float]] = {}  # tokens of a wave
    judged = any(_has_scores(record) for _, _, records in cells for record in records.values())
    for _, header, records in cells:
        kind = _kind(header["settings"], wave)
        for record in records.values():
            kept, gold = record.get("candidates"), record["gold"]
            if record["error"] is not None or gold is None or not kept or _has_scores(record) != judged:
                continue
            tokens = record["cost"]["generated_tokens"]
            if kind is None:
                yield Seen(record["id"], *_vote(kept, gold, grade, judged), tokens)
                continue
            waves = [kept] if waves_of(kind) > 1 else _waves(kept, wave)
            grown.setdefault((record["id"], gold), {}).setdefault(kind, []).extend(waves)
            spent.setdefault((record["id"], kind), []).append(tokens / len(waves))
    for (problem, gold), found in grown.items():
        for kind, waves in found.items():
            for i in range(1, len(waves) + 1):
                had = [each for one in waves[:i] for each in one]
                more = {other: (waves[i:] if other == kind else theirs)[:1] for other, theirs in found.items()}
                after = {other: _vote([*had, *more[other][0]], gold, grade, judged)[1] for other in more if more[other]}
                tokens = _mean(spent[problem, kind])
                yield Seen(problem, *_vote(had, gold, grade, judged), tokens * i, kind if i == 1 else None, after)


def _has_scores(record: Record) -> bool:
    return any(each["score"] is not None for each in record.get("candidates", []))


def _kind(settings: Settings, wave: int) -> Kind | None:
    strategy, n, expand = settings["strategy"], settings["options"].get("n"), settings["options"].get("expand")
    if strategy in ("majority", "best_of_n", "weighted_best_of_n") and isinstance(n, int) and n % wave == 0:
        return "chains"
    if strategy == "dvts" and expand == wave:
        return "tree"
    large = n == LARGE * wave
    if strategy == "beam" and large and expand == wave:
        return "beam"
    return "particles" if strategy == "particles" and large else None


def _waves(kept: Sequence[Kept], wave: int) -> list[list[Kept]]:
    """By the child of the root that they come from: `wave` of these are a wave."""
    found: dict[int, list[Kept]] = {}
    for each in kept:
        found.setdefault(each["path"][0] // wave, []).append(each)
    return [found[key] for key in sorted(found)]


def _vote(kept: Sequence[Kept], gold: str, grade: Grade, judged: bool) -> tuple[Standing, bool]:
    vote: Vote = "weighted" if judged else "majority"
    selection = choose(candidates(kept, judged=judged), vote)
    return standing(selection), grade(selection.chosen.answer if selection.chosen else None, gold)


def _mean(numbers: Iterable[float]) -> float:
    values = list(numbers)
    return sum(values) / len(values)
