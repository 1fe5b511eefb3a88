"""What a limit cut short is counted, by the limit: exactly the branches that ended there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import branchwise as bw
from branchwise.tree import walk
from branchwise.types import LIFTS, Cut

QUESTION = "12+3*4-5+60=?"


@pytest.fixture(scope="module")
def engine() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=256 << 20, max_tokens=300) as made:
        yield made


def cuts(result: bw.Result) -> dict[Cut, int]:
    """As the tree says it."""
    assert result.cuts == Counter(node.cut for node in walk(result.tree) if node.cut is not None)
    return result.cuts


@pytest.mark.parametrize(
    ("cut", "options"),
    [
        ("steps", {"max_steps": 1}),
        ("tokens", {"max_tokens": 2, "max_step_tokens": 8}),
        ("step_tokens", {"max_step_tokens": 2}),
    ],
)
@pytest.mark.parametrize("strategy", ["majority", "best_of_n", "beam", "dvts"])
def test_a_limit_that_ends_every_branch_is_counted(
    engine: bw.Engine, strategy: str, cut: Cut, options: dict[str, Any]
) -> None:
    result = engine.solve(QUESTION, strategy, n=4, **options)
    assert cuts(result) == {cut: 4}
    assert LIFTS[cut] == next(iter(options))


@pytest.mark.parametrize("cap", [1, 2, 9])
def test_caps_are_exact_wherever_they_are_given(engine: bw.Engine, cap: int) -> None:
    """No token more, and none less: the solution is far longer than any of them, and no blank line ends a step."""
    for options in ({"max_tokens": cap}, {"max_tokens": cap, "max_step_tokens": cap}, {"max_step_tokens": cap}):
        result = engine.solve(QUESTION, "majority", n=3, delimiter=[], **options)
        assert [len(node.tokens) for node in result.tree.children] == [cap] * 3
    with engine.open(QUESTION) as tree:
        assert [len(node.tokens) for node in tree.expand(tree.root, 3, stop=[], max_tokens=cap)] == [cap] * 3
    (found,) = engine.complete(QUESTION, n=3, max_tokens=cap, ignore_eos=True)
    assert [len(sample.tokens) for sample in found.samples] == [cap] * 3


def test_what_ended_by_itself_counts_nowhere(engine: bw.Engine) -> None:
    assert cuts(engine.solve(QUESTION, "beam", n=4)) == {}


@pytest.mark.parametrize("left", [2, 7])
def test_the_context_of_the_policy_is_said(engine: bw.Engine, left: int) -> None:
    (token,) = engine.policy.tokenizer.encode("1")
    prompt = [token] * (engine.policy.context - left)
    result = engine.solve(bw.Problem("long", "1", prompt=prompt), "majority", n=3, stop="never")
    assert cuts(result) == {"context": 3}
    assert {len(node.tokens) for node in result.tree.children} == {left}


def test_a_deadline_counts_the_branches_that_had_not_ended(engine: bw.Engine) -> None:
    result = engine.solve(QUESTION, "majority", n=4, deadline=1e-6)
    assert result.cuts == {"time": 1}
    assert result.candidates == []
