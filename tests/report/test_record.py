"""Results that somebody changed are refused where they are read, in words; what is not refused can be worked with."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from branchwise.control.fit import fit_calibration
from branchwise.errors import BranchwiseError
from branchwise.report.folder import read_cells
from branchwise.report.record import Kept, Record, fault
from branchwise.report.votes import Grades, at_k, read_runs, vote_again
from records import kept, record

OPTIONS = {"n": 8, "aggregate": "last", "vote": "max", "max_steps": None}
SURE = {"tokens": 1, "mean": 1.0, "tail": 1.0, "lowest": 1.0, "bottom": 1.0, "certainty": 1.0}
WRONG = [..., None, "x", -1, 7, [], {}, 1.5, True, [None], {"a": "b"}, float("nan")]


def whole() -> list[dict[str, Any]]:
    """The lines of a results file of 30 problems."""
    settings = {"policy": "p", "prm": "q", "strategy": "best_of_n", "options": OPTIONS, "source": None, "seed": 0}
    rng = random.Random(0)
    lines: list[dict[str, Any]] = [{"branchwise_results": 3, "label": "best_of_n", "settings": settings}]
    for number in range(30):
        drawn = [
            kept(i, answer=rng.choice("12"), score=0.5, scores=[0.5], confidence=SURE, flops=2.0) for i in range(8)
        ]
        right = drawn[0]["answer"] == "1"
        cost = {"generated_tokens": 8, "flops": 16.0}
        lines.append(
            record(
                f"p{number}", answer=drawn[0]["answer"], correct=right, candidates=drawn, cost=cost, votes=[["1", 2.0]]
            )
        )
    return lines


def grade(answer: str | None, gold: str) -> bool:
    return answer == gold


def use(folder: Path) -> None:
    """What people do with a folder of results."""
    grades = Grades(grade)
    for run in read_runs(folder):
        if run.rule is not None:
            vote_again(run, run.rule, grades)
            at_k(run, 2, grades)
    fit_calibration(read_cells(folder), grade)


def written(folder: Path, lines: list[dict[str, Any]]) -> Path:
    (folder / "best_of_n-n8-seed0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def spots(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in it."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (*above, key)
            yield from spots(value[key], (*above, key))


def changed(value: Any, spot: tuple[Any, ...], wrong: object) -> Any:
    made = at = copy.deepcopy(value)
    for key in spot[:-1]:
        at = at[key]
    if wrong is ...:
        del at[spot[-1]]
    else:
        at[spot[-1]] = wrong
    return made


def test_what_this_version_writes_has_no_fault(tmp_path: Path) -> None:
    lines = whole()
    assert not any(map(fault, lines[1:]))
    use(written(tmp_path, lines))


SPOTS = [(line, spot) for line in (0, 1) for spot in spots(whole()[line])]


@settings(deadline=None)
@given(st.sampled_from(SPOTS), st.sampled_from(WRONG))
@example((1, ("candidates",)), ...)
def test_whatever_is_changed_is_refused_or_can_be_used(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[int, tuple[Any, ...]], wrong: object
) -> None:
    line, spot = place
    lines = whole()
    lines[line] = changed(lines[line], spot, wrong)
    folder = written(tmp_path_factory.mktemp("results"), lines)
    with suppress(BranchwiseError):
        use(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"correct": True, "gold": None}, "it was graded, without a gold answer"),
        ({"candidates": [kept(path=[])]}, "has 1 steps and 0 scores, its path is []"),
        ({"candidates": [kept(scores=[0.1, 0.2])]}, "has 1 steps and 2 scores"),
        ({"candidates": [kept(), kept(count=0)]}, "candidates[1].count is 0, expected 1 or more"),
        ({"cuts": {"other": 1}}, 'cuts has a key that is "other", expected one of steps, tokens'),
        ({"cost": {"more": 1}}, "cost.more is unknown"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], words: str) -> None:
    assert words in (fault(record(**change)) or "")


def test_all_fields_are_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "runs.md").read_text()
    for shape in (Record, Kept):
        assert {name for name in shape.__annotations__ if f"`{name}`" not in text} == set()
