"""Solutions with thoughts: what votes, what ends the thoughts, and exact trees, on a pair that writes by a script."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from branchwise.errors import ConfigError
from branchwise.pair.protocol import Event
from branchwise.search.service import Service
from branchwise.strategies import Thinking, make_strategy
from branchwise.strategies.equal import without_chance
from branchwise.strategies.thinking import PROBE
from branchwise.tree import walk
from branchwise.types import Node, Result
from search.clients import submit
from search.scripted import ScriptedPair, ScriptedTree, shape

Write = Callable[[Node, str], str]  # what a step says, by the branch before it and the text that it is given


class Writer(ScriptedPair):
    """Each step is what `write` says: a word a token, cut at the ask's cap; one that ends the solution ends in "$"."""

    def __init__(self, write: Write, order: int = 0, **options: Any) -> None:
        super().__init__(order=random.Random(order), **options)
        self.write = write

    def _complete(self, event: Event) -> None:
        tree, node = event.tree, event.node
        assert isinstance(tree, ScriptedTree)
        feed, most = tree.feeds[node], tree.caps[node]
        super()._complete(event)
        words = re.findall(r"\S+\s*|\s+", self.write(node, feed))
        node.given = len(re.findall(r"\S+\s*|\s+", feed))
        node.tokens = [0] * (node.given + min(len(words), most))
        node.text = feed + "".join(words[:most])
        if len(words) > most:
            node.finish, node.cut = "length", "step_tokens"
        elif node.text.endswith("$"):
            node.finish, node.text = "eos", node.text[:-1]
        else:
            node.finish = "stop"
        node.cost.generated_tokens = len(node.tokens) - node.given


def solved(write: Write, strategy: Thinking, order: int = 0, **options: Any) -> Result:
    return submit(Service(Writer(write, order, **options)), "p", strategy).result()


def lines(parts: Sequence[str]) -> Write:
    """The n-th step of a branch is the n-th part; probes are answered by 7."""
    return lambda node, feed: "7} \\]" if feed == PROBE else parts[node.depth - 1]


def texts(result: Result) -> list[tuple[tuple[int, ...], str]]:
    return [(node.lineage_path, node.text) for node in walk(result.tree) if node.depth]


def test_what_follows_the_thoughts_votes():
    parts = ["first \\boxed{1}\n\n", "done </think>", "\n\nIt is \\boxed{2}$"]
    result = solved(lines(parts), Thinking(n=2))
    assert result.answer == "2"
    assert result.votes == [("2", 2.0)]
    assert [path for path, _ in texts(result)] == [(0,), (1,), (0, 0), (1, 0), (0, 0, 0), (1, 0, 0)]


def test_thoughts_without_an_end_state_nothing():
    parts = ["I say \\boxed{1}\n\n", "again \\boxed{1}$"]
    result = solved(lines(parts), Thinking(n=2))
    assert (result.answer, result.votes) == (None, [])


def test_thoughts_and_answer_in_one_step():
    result = solved(lines(["so </think>\n\\boxed{3}$"]), Thinking(n=1))
    assert result.answer == "3"


def test_probes_that_agree_end_the_thoughts():
    """A paragraph has three tokens: probed from the fourth token on after every second one, stable after two probes."""

    def write(node: Node, feed: str) -> str:
        if feed == PROBE:
            return "7} \\]"
        return "\\boxed{7}$" if "</think>" in feed else "a b c\n\n"

    result = solved(write, Thinking(n=1, interval=4, stable=2))
    probe = f"{PROBE}7}} \\]"
    assert texts(result) == [
        ((0,), "a b c\n\n"),
        ((0, 0), "a b c\n\n"),
        ((0, 0, 0), probe),
        ((0, 0, 1), "a b c\n\n"),
        ((0, 0, 1, 0), "a b c\n\n"),
        ((0, 0, 1, 0, 0), probe),
        ((0, 0, 1, 0, 1), "</think>\n\n\\boxed{7}"),
    ]
    assert result.answer == "7"
    assert result.why.endswith("; 1 of 1 thoughts ended by probes")
    assert result.cuts == {}
    assert [node.pruned for node in walk(result.tree) if node.text == probe] == [True, True]


@pytest.mark.parametrize(
    "said",
    [["7}", "8}"], ["7}", "7}, but wait"], ["7}", "7 or so"], ["7}", "now}"]],
    ids=["other", "doubt", "none", "now"],
)
def test_probes_that_do_not_agree_end_nothing(said: list[str]) -> None:
    """Words of doubt are whole words."""

    def write(node: Node, feed: str) -> str:
        if feed == PROBE:
            return said[node.depth % 2]
        return "</think>\\boxed{7}$" if node.depth > 7 else "a b c\n\n"

    result = solved(write, Thinking(n=1, interval=1, stable=2))
    assert "ended by" not in result.why
    assert len([text for _, text in texts(result) if text.startswith(PROBE)]) == 7


def test_the_budget_ends_thoughts_at_the_token():
    """In mid-paragraph what is there is given again; at the end of a paragraph, and after the token, nothing is."""

    def write(node: Node, feed: str) -> str:
        return "\\boxed{7}$" if "</think>" in feed else "a b c\n\n"

    result = solved(write, Thinking(n=1, budget=5))
    assert texts(result) == [
        ((0,), "a b c\n\n"),
        ((0, 0), "a b "),
        ((0, 1), "a b </think>\n\n\\boxed{7}"),
    ]
    assert result.cuts == {}
    assert result.why.endswith("; 1 of 1 thoughts ended by budget")
    whole = solved(write, Thinking(n=1, budget=6))
    assert texts(whole)[-1] == ((0, 0, 0), "</think>\n\n\\boxed{7}")
    at_once = solved(write, Thinking(n=1, budget=2))
    assert texts(at_once) == [((0,), "a b "), ((1,), "a b </think>\n\n\\boxed{7}")]


def test_the_end_of_thoughts_is_taken_back():
    def write(node: Node, feed: str) -> str:
        return "a b.</think>" if node.depth == 2 or feed else "a b c\n\n"

    parts: list[str] = []

    def answered(node: Node, feed: str) -> str:
        parts.append(feed)
        return "\\boxed{7}$" if node.depth > 2 else write(node, feed)

    result = solved(answered, Thinking(n=1, waits=2))
    assert texts(result) == [
        ((0,), "a b c\n\n"),
        ((0, 0), "a b.</think>"),
        ((0, 1), "a b.\nWaita b.</think>"),
        ((0, 2), "a b.\nWaita b.\nWaita b.</think>"),
        ((0, 2, 0), "\\boxed{7}"),
    ]
    assert [node.pruned for node in walk(result.tree)] == [False, False, True, True, False, False]


def test_places_at_the_root_depend_on_no_timing():
    """Solutions whose first paragraph is taken back begin again together, however fast each was."""

    def write(node: Node, feed: str) -> str:
        kinds = ["a</think>", "b\n\n", "c</think>"]
        if node.depth > 1 or "Wait" in feed:
            return f"</think>\\boxed{{{node.lineage % 3}}}$"
        return kinds[node.index % 3]

    strategy = Thinking(n=6, waits=1)
    shapes = [shape(solved(write, strategy, order)) for order in range(6)]
    shapes += [shape(solved(write, strategy, slow=lambda node, by=by: (-node.index % 7) * by)) for by in (1, 3)]
    assert all(each == shapes[0] for each in shapes)
    assert len(solved(write, strategy).tree.children) == 6 + 4


def test_the_demand_names_the_token():
    assert Thinking(n=3).demand(object()).tokens == ("</think>",)  # type: ignore[arg-type]
    assert without_chance(Thinking(n=3)).demand(object()).branches == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 0}, "thinking: n is 0"),
        ({"interval": 0}, "thinking: interval is 0"),
        ({"stable": "3"}, "thinking: stable is '3'"),
        ({"budget": -1}, "thinking: budget is -1"),
        ({"waits": -1}, "thinking: waits is -1, expected a whole number of at least 0"),
        ({"end": " "}, "thinking: end is ' ', expected the token that ends thoughts, as in '</think>'"),
        ({"interwal": 3}, "did you mean 'interval'"),
    ],
)
def test_what_cannot_be(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_strategy("thinking", **options)
