"""Cases from reports of the field, and more of every kind: text and its answer, votes together or not, gold and answer.

`field_cases.jsonl` holds what users of such programs have reported, `own_cases.jsonl` the kinds carried further, with
many pairs that must not be equal.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from branchwise.answers import Grader, canonical, choose, extract_answer
from branchwise.types import Candidate, Node

HERE = Path(__file__).parent
FIELD, OWN = (
    [json.loads(line) for line in (HERE / f"{name}_cases.jsonl").read_text().splitlines()] for name in ("field", "own")
)


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(60.0) as grader:
        yield grader


def kind(name: str) -> list[Any]:
    return [pytest.param(case, id=json.dumps(case)) for case in (*FIELD, *OWN) if case["kind"] == name]


def together(*answers: str) -> bool:
    """Whether two answers are one class of a vote."""
    root = Node(0, None, 0, 0, 0)
    candidates = [
        Candidate(Node(1 + index, root, index, 1, 0), "", answer, [], 0.5, "eos")
        for index, answer in enumerate(answers)
    ]
    return [weight for _, weight in choose(candidates, "majority").votes] == [2.0]


def test_all_cases_are_there() -> None:
    assert Counter(case["kind"] for case in FIELD) == {"extract": 46, "vote": 79, "grade": 153}
    assert len(OWN) > 800


@pytest.mark.parametrize("case", kind("extract"))
def test_extraction(case: dict[str, Any]) -> None:
    found = extract_answer(case["text"])
    assert (found and canonical(found)) in [right and canonical(right) for right in case["right"]]


@pytest.mark.parametrize("case", kind("vote"))
def test_votes(case: dict[str, Any]) -> None:
    one, other = case["answers"]
    assert together(one, other) is together(other, one) is case["one_class"]


@pytest.mark.parametrize("case", kind("grade"))
def test_grades(grader: Grader, case: dict[str, Any]) -> None:
    assert grader.grade(case["answer"], case["gold"]) is case["equal"]
    assert grader.timeouts == 0


def test_forms_alone_tell_nearly_all_classes() -> None:
    """The one pair that no single form can tell: 5 minutes are not 5 hours, but both may be what 5 means."""
    votes = [case for case in FIELD if case["kind"] == "vote"]
    missed = [
        case["answers"] for case in votes if (len(set(map(canonical, case["answers"]))) == 1) is not case["one_class"]
    ]
    assert missed == [["5 minutes", "5 hours"]]
