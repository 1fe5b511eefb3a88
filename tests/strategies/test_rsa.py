"""Recursive self-aggregation: its prompts, its loops, and what ends them, on a scripted pair."""

from __future__ import annotations

import random
import re

import pytest

from branchwise.errors import ConfigError
from branchwise.search.keyed_random import KeyedRandom
from branchwise.strategies import RSA, make_strategy
from branchwise.strategies.equal import without_chance
from branchwise.tree import walk
from branchwise.types import Node, Problem, Result
from search.scripted import Script, ScriptedPair, run, shape

ANSWERS = Script(eos=40, length=0, answers=3)


def solved(strategy: RSA, script: Script = ANSWERS, order: int = 0, **options: object) -> Result:
    pair = ScriptedPair(script, random.Random(order), **options)  # type: ignore[arg-type]
    (result,) = run([Problem("p", "How many?")], strategy, pair)
    assert result.error is None
    return result


def prompts(result: Result) -> list[Node]:
    return [node for node in result.tree.children if node.is_prompt]


def leaf(node: Node) -> Node:
    while node.children:
        (node,) = node.children
    return node


def test_every_new_solution_is_written_from_k_of_the_last_ones():
    result = solved(RSA(n=4, k=2, loops=3, agree=None))
    assert [node.index for node in result.tree.children] == list(range(12))
    assert prompts(result) == result.tree.children[4:]
    for number, node in enumerate(prompts(result)):
        loop = number // 4
        before = [leaf(each).branch_text.strip() for each in result.tree.children[4 * loop : 4 * loop + 4]]
        parts = re.split(r"---- Solution \d ----\n", node.text.partition("Candidate solutions:\n")[2])
        shown = [part.partition("\n\nNow write")[0].strip() for part in parts[1:]]
        assert node.text.count("How many?") == 1
        assert len(shown) == 2
        assert set(shown) <= set(before)
    last = [leaf(node) for node in result.tree.children[8:]]
    assert [each.node for each in result.candidates] == last
    assert result.why.endswith("all loops were run after 3 of 3 loops")
    assert not any(node.pruned for node in walk(result.tree))


def test_which_are_drawn_is_keyed_by_seed_and_number():
    """Without replacement, in the order in which they were drawn; in that of the tree where it is asked for."""
    rule, root = RSA(n=5, k=3, loops=2), Node(0, None, 0, 0, 9)
    state = rule.start(Problem("p", "?"), root, KeyedRandom(1))
    drawn = [rule._drawn(state, number) for number in range(40)]
    assert all(len(set(each)) == 3 for each in drawn)
    assert {place for each in drawn for place in each} == set(range(5))
    assert any(list(each) != sorted(each) for each in drawn)
    assert drawn == [rule._drawn(state, number) for number in range(40)]
    ordered = RSA(n=5, k=3, loops=2, ordered=True)
    assert [ordered._drawn(state, number) for number in range(40)] == [sorted(each) for each in drawn]


def test_one_candidate_is_improved():
    result = solved(RSA(n=3, k=1, loops=2, agree=None))
    for node in prompts(result):
        assert "Candidate solution:\n" in node.text
        assert "---- Solution" not in node.text


def test_it_ends_when_a_loop_agrees():
    """At once where there is only one answer; never where a single solution would agree with itself."""
    one = Script(eos=40, length=0, answers=1)
    agreed = solved(RSA(n=4, k=2, loops=5), one)
    assert prompts(agreed) == []
    assert "100 % agree after 1 of 5 loops" in agreed.why
    assert len(prompts(solved(RSA(n=4, k=2, loops=5, agree=None), one))) == 16
    assert len(prompts(solved(RSA(n=1, k=1, loops=4), one))) == 3
    half = solved(RSA(n=4, k=2, loops=9, agree=0.5))
    assert half.votes[0][1] >= 2


def test_no_timing_shows():
    strategy = RSA(n=5, k=2, loops=3, agree=None)
    shapes = [shape(solved(strategy, order=order)) for order in range(6)]
    assert all(each == shapes[0] for each in shapes)
    slow = [shape(solved(strategy, slow=lambda node, by=by: node.index * by)) for by in (1, 7)]
    assert slow == [shapes[0]] * 2


def test_the_words_around_them_may_be_ones_own():
    result = solved(RSA(n=2, k=2, loops=2, agree=None, frame="{solutions}?{problem}"))
    for node in prompts(result):
        assert node.text.startswith("---- Solution 1 ----\n")
        assert node.text.endswith("?How many?")


def test_thoughts_are_shown_or_not():
    rule = RSA(n=2, k=2, thoughts=False)
    node = Node(0, Node(0, None, 0, 0, 0), 0, 1, 0, text="<think>so</think>\n\nIt is 7.")
    assert rule._shown(node) == "It is 7."
    assert RSA(n=2, k=2)._shown(node) == "<think>so</think>\n\nIt is 7."


def test_without_chance_it_runs_as_it_is():
    assert without_chance(RSA(n=4, k=2)) == RSA(n=4, k=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 3}, "rsa: k=4 is more than n=3: use k=3, or n=4"),
        ({"k": 0}, "rsa: k is 0, expected a whole number of at least 1"),
        ({"loops": 0}, "loops is 0"),
        ({"agree": 0}, "agree is 0, expected more than 0 to 1"),
        ({"agree": 2}, "agree is 2"),
        ({"ordered": "yes"}, "ordered='yes': expected True or False"),
        ({"frame": "{problem}"}, "expected a text with {problem} and {solutions} in it"),
        ({"loop": 3}, "did you mean 'loops'"),
    ],
)
def test_what_cannot_be(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_strategy("rsa", **options)
