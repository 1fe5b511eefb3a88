"""Cases that users of such programs have reported: text and its answer, answers that vote together, gold and answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from branchwise.answers import Grader, canonical, choose, extract_answer
from branchwise.types import Candidate, Node

CASES: list[dict[str, Any]] = [
    json.loads(line) for line in Path(__file__).with_name("field_cases.jsonl").read_text().splitlines()
]
MISSES: dict[str, str] = {}  # the case as JSON -> why it cannot be as labelled


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(60.0) as grader:
        yield grader


def kind(name: str) -> list[Any]:
    return [pytest.param(case, id=json.dumps(case)) for case in CASES if case["kind"] == name]


def classes(answers: list[str]) -> int:
    root = Node(0, None, 0, 0, 0)
    candidates = [
        Candidate(Node(1 + index, root, index, 1, 0), "", answer, [], 0.5, "eos")
        for index, answer in enumerate(answers)
    ]
    return len(choose(candidates, "majority").votes)


def test_all_are_there_and_the_misses_are_few() -> None:
    assert Counter(case["kind"] for case in CASES) == {"extract": 46, "vote": 79, "grade": 153}
    assert set(MISSES) <= {json.dumps(case) for case in CASES}
    assert not MISSES


@pytest.mark.parametrize("case", kind("extract"))
def test_extraction(case: dict[str, Any]) -> None:
    found = extract_answer(case["text"])
    assert (found and canonical(found)) in [right and canonical(right) for right in case["right"]]


@pytest.mark.parametrize("case", kind("vote"))
def test_votes(case: dict[str, Any]) -> None:
    assert (classes(case["answers"]) == 1) is case["one_class"]


@pytest.mark.parametrize("case", kind("grade"))
def test_grades(grader: Grader, case: dict[str, Any]) -> None:
    assert grader.grade(case["answer"], case["gold"]) is case["equal"]
    assert grader.timeouts == 0
