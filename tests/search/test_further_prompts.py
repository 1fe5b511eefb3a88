"""Asks that plant a prompt, and asks that begin with given text: their nodes, their replies, what is refused."""

from __future__ import annotations

import random
from typing import Any

import pytest

from branchwise.report.result_json import result_to_dict
from branchwise.report.text_tree import draw_tree
from branchwise.search.service import Service
from branchwise.strategies import Ask, Drop, Finish, State
from branchwise.strategies.protocol import Action
from branchwise.tree import walk
from branchwise.types import Node
from search.clients import submit
from search.scripted import Script, ScriptedPair, shape
from search.test_strategy_words import Rule, refusal

GOING = Script(eos=0, length=0)


def search(act: Any, pair: ScriptedPair | None = None, **options: Any) -> Any:
    return submit(Service(pair or ScriptedPair(GOING)), "p", Rule(act, **options)).result()


def second_round(state: State, nodes: list[Node] | None) -> list[Action]:
    """Two steps; below the first of them a prompt with two chains of two steps; then one more below that prompt."""
    if nodes is None:
        return [Ask(state.root, 2)]
    if not nodes[0].prompt.is_prompt:
        return [Ask(nodes[0], 2, steps=2, prompt="which is better?")]
    if len(nodes) == 2:
        return [Ask(nodes[0].prompt, 1, feed="I say ")]
    state.finished += nodes
    return []


def test_a_prompt_stands_in_the_tree_and_its_branches_begin_anew():
    result = search(second_round)
    (planted,) = [node for node in walk(result.tree) if node.is_prompt]
    assert planted.lineage_path == (0, 0)
    assert (planted.depth, planted.text, planted.score) == (0, "which is better?", None)
    assert [child.lineage_path for child in planted.children] == [(0, 0, 0), (0, 0, 1), (0, 0, 2)]
    deep = planted.children[0].children[0]
    assert (deep.depth, [step.index for step in deep.path]) == (2, [0, 0])
    assert deep.branch_text == planted.children[0].text + deep.text
    assert len(deep.scores) == 2
    fed = planted.children[2]
    assert fed.text.startswith("I say ")
    assert fed.given == len("I say ")
    assert result.candidates[0].node is fed
    assert result.cost.prefill_tokens == 7 + 2


def test_it_is_drawn_and_told():
    result = search(second_round)
    drawn = draw_tree(result.tree).plain
    assert "prompt: which is better?" in drawn
    told = result_to_dict(result)["tree"]
    assert [(node["parent"], node["given"]) for node in told if node["prompt"]] == [(1, 2)]
    assert [node["given"] for node in told if node["text"].startswith("I say")] == [6]


def test_no_timing_shows():
    shapes = [shape(search(second_round, ScriptedPair(GOING, random.Random(seed)))) for seed in range(8)]
    assert all(each == shapes[0] for each in shapes)


def test_what_is_cancelled_leaves_no_prompt():
    def act(state: State, nodes: list[Node] | None) -> list[Action]:
        if nodes is None:
            return [Ask(state.root, 1, lane="quick"), Ask(state.root, 3, prompt="slow?", lane="slow")]
        state.finished += nodes
        return [Finish()]

    pair = ScriptedPair(GOING, slow=lambda node: 100 * node.prompt.is_prompt)
    assert [node.lineage_path for node in walk(search(act, pair).tree)] == [(), (0,)]


def test_a_prompt_is_freed_with_the_last_branch_below_it():
    def act(state: State, nodes: list[Node] | None) -> list[Action]:
        if nodes is None:
            return [Ask(state.root, 2, prompt="?")]
        if len(nodes) == 2:
            return [Drop(nodes[0]), Ask(nodes[1], 1)]
        return [Drop(nodes[0])]

    pair = ScriptedPair(GOING)
    search(act, pair)
    (tree,) = pair.trees
    assert {node.lineage_path for node in tree.pruned} == {(0,), (0, 0), (0, 1), (0, 1, 0)}


def test_a_cap_that_the_strategy_wished_for_is_no_limit_of_the_run():
    def act(state: State, nodes: list[Node] | None) -> list[Action]:
        if nodes is None:
            return [Ask(state.root, 1), Ask(state.root, 1, max_tokens=3)]
        state.finished += nodes
        return []

    class Cut(ScriptedPair):
        def _complete(self, event: Any) -> None:
            super()._complete(event)
            event.node.finish, event.node.cut = "length", "step_tokens"

    assert search(act, Cut(GOING)).cuts == {"step_tokens": 1}


def test_what_cannot_be_is_named():
    def asked(**option: Any) -> str:
        return refusal(lambda state, nodes: [Ask(state.root, 1, **option)])

    assert "a prompt is 3: expected a question, chat messages or token ids" in asked(prompt=3)
    assert "half a character" in asked(prompt="\ud800")
    assert "feed=7: expected a text" in asked(feed=7)
    assert "feed='': expected a text" in asked(feed="")
    assert "lone surrogate" in asked(feed="\udfff")
    dropped = [Drop, lambda node: Ask(node, 1, prompt="?")]
    message = refusal(
        lambda state, nodes: [Ask(state.root, 1)] if nodes is None else [each(nodes[0]) for each in dropped]
    )
    assert "which was dropped or is not its own" in message


@pytest.mark.parametrize("n", [1, 9])
def test_the_demand_holds_for_prompts(n: int) -> None:
    if n == 1:
        assert search(lambda state, nodes: [Ask(state.root, n, prompt="?")] if nodes is None else []).error is None
    else:
        assert "its demand is 8 branches" in refusal(lambda state, nodes: [Ask(state.root, n, prompt="?")])
