"""Python judges: their numbers, and every way in which they can fail, which costs one branch its score."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from branchwise.errors import ConfigError
from branchwise.scoring.function import FunctionScorer, FunctionTree, PythonJudge
from branchwise.types import Node

Branches = Sequence[Sequence[str]]


def child(parent: Node, text: str) -> Node:
    node = Node(0, parent, len(parent.children), parent.depth + 1, 0, text=text, finish="stop")
    parent.children.append(node)
    return node


def tree_of(judge: PythonJudge) -> tuple[FunctionScorer, FunctionTree, Node]:
    scorer = FunctionScorer(judge, tokenizer=None)  # type: ignore[arg-type]
    root = Node(0, None, 0, 0, 0)
    return scorer, scorer.open(root, "how many?"), root


def judged(function: Any, texts: Sequence[str], **options: Any) -> list[tuple[float | None, str | None]]:
    scorer, tree, root = tree_of(PythonJudge(function, **options))
    nodes = [child(root, text) for text in texts]
    for node in nodes:
        assert scorer.submit(tree, node)
    assert scorer.pending == len(nodes)
    assert set(scorer.poll()) == set(nodes)
    assert scorer.idle
    scorer.free()
    return [(node.score, node.unjudged) for node in nodes]


def lengths(question: str, branches: Branches) -> list[float]:
    assert question == "how many?"
    return [float(len("".join(steps))) for steps in branches]


class Lengths:
    def score(self, question: str, branches: Branches) -> Any:
        return np.array(lengths(question, branches), np.float32)


def fails_at_x(error: Callable[[], float]) -> Callable[[str, Branches], list[float]]:
    def judge(question: str, branches: Branches) -> list[float]:
        return [error() if "x" in steps[-1] else 1.0 for steps in branches]

    return judge


def raises() -> float:
    raise ValueError("not this one")


def sleeps_at_x(question: str, branches: Branches) -> list[float]:
    time.sleep(60 if any("x" in steps[-1] for steps in branches) else 0)
    return [1.0] * len(branches)


def dies_at_x(question: str, branches: Branches) -> list[float]:
    if any("x" in steps[-1] for steps in branches):
        import os

        os._exit(1)
    return [1.0] * len(branches)


def nan_at_x(question: str, branches: Branches) -> list[float]:
    return [float("nan") if "x" in steps[-1] else 1.0 for steps in branches]


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("function", [lengths, Lengths()], ids=["function", "object"])
def test_numbers(function: Any, isolate: bool) -> None:
    assert judged(function, ["a", "bcd", "a"], isolate=isolate) == [(1.0, None), (3.0, None), (1.0, None)]


def test_a_branch_is_all_its_steps_and_earlier_ones_are_judged_on_the_way() -> None:
    asked: list[list[str]] = []

    def judge(question: str, branches: Branches) -> list[float]:
        asked.extend(list(steps) for steps in branches)
        return [0.5] * len(branches)

    scorer, tree, root = tree_of(PythonJudge(judge))
    last = child(child(child(root, "a"), ""), "b")
    twin = child(root, "a")
    assert scorer.submit(tree, last)
    assert scorer.submit(tree, twin)
    assert not scorer.submit(tree, last.parent)  # type: ignore[arg-type]
    scorer.poll()
    assert asked == [["a"], ["a", "", "b"]]  # what is said twice is asked once
    assert root.children[0].score == twin.score == last.score == 0.5
    assert scorer.submit(tree, child(root, "a"))
    scorer.poll()
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (raises, "raised ValueError: not this one"),
        (lambda: float("nan"), "returned nan"),
        (lambda: float("inf"), "returned inf"),
        (lambda: "much", "returned 'much': expected a number"),
        (lambda: None, "returned None: expected a number"),
    ],
)
def test_what_goes_wrong_costs_one_branch_its_score(function: Any, said: str) -> None:
    (first, wrong, last) = judged(fails_at_x(function), ["a", "x", "b"])
    assert first == last == (1.0, None)
    assert wrong[0] is None
    assert said in (wrong[1] or "")


@pytest.mark.parametrize(
    ("function", "said"),
    [(sleeps_at_x, "took longer than 2 s"), (dies_at_x, "ended its process"), (nan_at_x, "returned nan")],
)
def test_in_a_process_of_its_own_nothing_hangs_and_nothing_dies(function: Any, said: str) -> None:
    (first, wrong, last) = judged(function, ["a", "x", "b"], isolate=True, seconds=2)
    assert first == last == (1.0, None)
    assert wrong[0] is None
    assert said in (wrong[1] or "")


@pytest.mark.parametrize("given", [[], [1.0], [1.0] * 7, None, 3])
def test_a_wrong_number_of_numbers(given: Any) -> None:
    scores = judged(lambda question, branches: given if len(branches) > 1 else [], ["a", "b"])
    assert [score for score, _ in scores] == [None, None]
    assert all("returned 0 numbers for 1 branches" in (why or "") for _, why in scores)


def test_what_cannot_be_a_judge() -> None:
    for given in (3, None, "lengths"):
        with pytest.raises(ConfigError, match="expected a function of"):
            PythonJudge(given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="seconds=0"):
        PythonJudge(lengths, seconds=0)
    with pytest.raises(ConfigError, match="memory=10"):
        PythonJudge(lengths, memory=10)
    with pytest.raises(ConfigError, match=r"does not pickle .* leave out isolate=True"):
        tree_of(PythonJudge(lambda question, branches: [], isolate=True))


def test_released_and_closed_nodes_are_not_asked_for() -> None:
    scorer, tree, root = tree_of(PythonJudge(lengths))
    first, second = child(root, "a"), child(root, "b")
    scorer.submit(tree, first)
    scorer.submit(tree, second)
    scorer.release(tree, first)
    assert scorer.poll() == [second]
    scorer.submit(tree, child(root, "c"))
    scorer.close(tree)
    assert scorer.idle
