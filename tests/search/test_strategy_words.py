"""What a strategy may say to the service, what it may rely on, and what is refused by name."""

from __future__ import annotations

import random
from typing import Any

import pytest

from branchwise.errors import StrategyError
from branchwise.search import driver
from branchwise.search.service import Service
from branchwise.search.session import SearchOptions
from branchwise.strategies import Ask, Demand, Drop, Finish, Majority, Reply, State
from branchwise.strategies.protocol import Action
from branchwise.tree import walk
from branchwise.types import Node, Problem, Sampling, Settings
from search.clients import BEAM, submit
from search.scripted import Script, ScriptedPair


class Rule:
    """A strategy for tests: one function of (state, nodes of the last reply or None)."""

    name = "rule"

    def __init__(self, act: Any, *, branches: int = 8, scores: bool = True) -> None:
        self._act = act
        self._demand = Demand(branches, branches, 40, scores)

    def demand(self, limits: object) -> Demand:
        return self._demand

    def start(self, problem: Problem, root: Node, random: Any) -> State:
        state = State(problem, root)
        self.random = random
        self.next: list[Action] = self._act(state, None)
        return state

    def propose(self, state: State) -> list[Action]:
        actions, self.next = self.next, []
        return actions

    def observe(self, state: State, replies: list[Reply]) -> None:
        self.next = self._act(state, replies[0].nodes) or []

    def select(self, state: State) -> Any:
        return Majority(n=1).select(state)


def refusal(act: Any) -> str:
    """The message of the one search that fails, beside one that does not."""
    pair = ScriptedPair(Script(eos=0, length=0))
    service: Service[Any] = Service(pair)
    bad, good = submit(service, "bad", Rule(act)), submit(service, "good", BEAM)
    assert not good.result().error
    with pytest.raises(StrategyError) as caught:
        bad.result()
    assert pair.open_trees == []
    assert "strategy 'rule' on problem 'bad': " in str(caught.value)
    return str(caught.value)


def test_broken_words_are_named() -> None:
    def later(*actions: Any) -> Any:
        def act(state: State, nodes: list[Node] | None) -> list[Action]:
            return [Ask(state.root, 2)] if nodes is None else [make(state, nodes) for make in actions]

        return act

    assert "n is 0" in refusal(lambda state, nodes: [Ask(state.root, 0)])
    assert "steps is 0" in refusal(lambda state, nodes: [Ask(state.root, 1, steps=0)])
    assert "n is '2'" in refusal(lambda state, nodes: [Ask(state.root, "2")])  # type: ignore[arg-type]
    assert "unhashable" in refusal(lambda state, nodes: [Ask(state.root, 1, lane=[])])
    assert "children of node None" in refusal(lambda state, nodes: [Ask(None, 1)])  # type: ignore[arg-type]
    assert "dropped node None" in refusal(later(lambda state, nodes: Drop(None)))  # type: ignore[arg-type]
    assert "propose() raised TypeError" in refusal(lambda state, nodes: 5)
    assert "asked for nothing" in refusal(lambda state, nodes: [])
    assert "expected Ask, Drop or Finish" in refusal(lambda state, nodes: ["root"])
    assert "its demand is 8" in refusal(lambda state, nodes: [Ask(state.root, 9)])
    cannot_work = [({"stop": ""}, "stop=''"), ({"max_tokens": 0}, "max_tokens=0"), ({"sampling": Sampling(-1.0)}, "-1")]
    for option, message in cannot_work:
        assert message in refusal(lambda state, nodes, option=option: [Ask(state.root, 1, **option)])
    stranger = Node(0, None, 0, 0, 0)
    assert "dropped or is not its" in refusal(lambda state, nodes: [Ask(stranger, 1)])
    drop, ask = (lambda state, nodes: Drop(nodes[0])), (lambda state, nodes: Ask(nodes[0], 1))
    assert "(0,) twice" in refusal(later(drop, drop))
    assert "node (0,), which was dropped" in refusal(later(drop, ask))
    assert "observe() raised ZeroDivisionError" in refusal(later(lambda state, nodes: 1 / 0))
    assert "start() raised KeyError" in refusal(lambda state, nodes: {}[0])


@pytest.mark.parametrize("name", ["demand", "start", "select"])
@pytest.mark.parametrize("answer", [None, 5, [], {}])
def test_what_a_strategy_returns_is_of_the_kind_that_was_asked_for(name: str, answer: Any) -> None:
    strategy = Rule(lambda state, nodes: [Ask(state.root, 1)] if nodes is None else [])
    setattr(strategy, name, lambda *args: answer)
    pair = ScriptedPair(Script(eos=0, length=0))
    with pytest.raises(StrategyError, match=rf"'rule'.*({name}|demand)"):
        submit(Service(pair), "bad", strategy).result()
    assert pair.open_trees == []


def test_nothing_can_be_asked_of_a_step_that_ended() -> None:
    service: Service[Any] = Service(ScriptedPair(Script(eos=100)))
    rule = Rule(lambda state, nodes: [Ask(state.root, 1)] if nodes is None else [Ask(nodes[0], 1)])
    with pytest.raises(StrategyError, match="which has ended: 'eos'"):
        submit(service, "p", rule).result()


def test_finish_and_drop_give_up_what_grows() -> None:
    def act(state: State, nodes: list[Node] | None) -> list[Action]:
        if nodes is None:
            return [Ask(state.root, 1, lane="quick"), Ask(state.root, 3, lane="slow")]
        state.finished += nodes
        return [Finish()]

    pair = ScriptedPair(Script(eos=0, length=0), slow=lambda node: 100 * (node.index > 0))
    result = submit(Service(pair), "p", Rule(act)).result()
    assert [node.lineage_path for node in walk(result.tree)] == [(), (0,)]
    assert pair.polls < 50

    def drop(state: State, nodes: list[Node] | None) -> list[Action]:
        if nodes is None:
            return [Ask(state.root, 2)]
        if nodes[0].depth == 1:
            return [Ask(nodes[0], 1, lane=0), Ask(nodes[1], 1, lane=1)]
        left, right = state.root.children
        assert nodes[0].parent is right
        state.finished += nodes
        return [Drop(left)]

    pair = ScriptedPair(Script(eos=0, length=0), slow=lambda node: 100 * (node.lineage_path == (0, 0)))
    result = submit(Service(pair), "p", Rule(drop)).result()
    assert {node.lineage_path: node.pruned for node in walk(result.tree)} == {
        (): False, (0,): True, (1,): False, (1, 0): False,
    }  # fmt: skip
    assert pair.polls < 50


def test_chains_of_steps_and_what_is_scored() -> None:
    def act(state: State, nodes: list[Node] | None) -> list[Action]:
        if nodes is None:
            return [
                Ask(state.root, 2, steps=3, score="last", lane=0), Ask(state.root, 1, steps=2, lane=1),
                Ask(state.root, 1, score=False, lane=2),
            ]  # fmt: skip
        state.finished += nodes
        return []

    result = submit(Service(ScriptedPair(Script(eos=0, length=0))), "p", Rule(act)).result()
    scored = {node.lineage_path: node.score is not None for node in walk(result.tree) if node.parent}
    assert scored == {
        (0,): False, (1,): False, (2,): True, (3,): False, (0, 0): False, (1, 0): False, (2, 0): True,
        (0, 0, 0): True, (1, 0, 0): True,
    }  # fmt: skip
    assert sorted(each.node.lineage_path for each in result.candidates) == [(0, 0, 0), (1, 0, 0), (2, 0), (3,)]


def test_replies_of_a_lane_come_in_the_order_of_the_asks() -> None:
    for order in range(5):
        seen: list[int] = []

        def act(state: State, nodes: list[Node] | None, seen: list[int] = seen) -> list[Action]:
            if nodes is None:
                return [Ask(state.root, 1) for _ in range(6)]
            seen.append(nodes[0].index)
            return []

        submit(Service(ScriptedPair(order=random.Random(order))), "p", Rule(act)).result()
        assert seen == list(range(6))


def test_random_numbers_belong_to_seed_and_node() -> None:
    drawn: dict[tuple[int, int], list[float]] = {}
    for seed in (0, 1):
        for order in (0, 1):
            rule = Rule(lambda state, nodes: [Ask(state.root, 4)] if nodes is None else [])
            options = SearchOptions(rule, Settings(seed=seed))
            pair = ScriptedPair(order=random.Random(order))
            result = driver.submit(Service(pair), Problem("p", "p"), options).result()
            drawn[seed, order] = [rule.random(node, draw) for node in walk(result.tree) for draw in (0, 1)]
    assert drawn[0, 0] == drawn[0, 1]
    assert not set(drawn[0, 0]) & set(drawn[1, 0])
    assert len(set(drawn[0, 0])) == 10
    assert all(0 <= number < 1 for number in drawn[0, 0])
