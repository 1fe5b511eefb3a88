"""Wrong arguments of every public call: one line that says what was given, and an engine and trees as before."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import branchwise as bw
from branchwise.strategies.registry import STRATEGIES, option_names

QUESTION = "12+3*4-5+60=?"
NUMBERS = [-1, 2.5, "2", None, True, math.nan, [], 2**70]


@dataclass
class Place:
    """An engine with two open trees, and what must not change."""

    engine: bw.Engine
    tree: Any
    other: Any
    kid: bw.Node
    pruned: bw.Node
    ended: bw.Node

    def state(self) -> object:
        service, policy, judge = self.engine._service, self.engine.policy, self.engine.judge
        assert judge is not None
        children = [(node.index, node.finish, node.pruned, node.score) for node in self.tree.root.children]
        board = service.board
        counts = [len(each) for each in (service._waiting, service._running, board.growing, board.scoring)]
        blocks = [kv.free_blocks for kv in (policy.kv, judge.kv)]
        return children, counts, blocks, policy.idle, judge.idle


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with bw.Engine(kv_memory=256 << 20, max_tokens=100) as engine:
        tree, other = engine.open(QUESTION, branches=4), engine.open("1+1=?", branches=2)
        kid, pruned = tree.expand(tree.root, 2)
        (ended,) = tree.expand(tree.root, 1, max_tokens=1)
        tree.prune(pruned)
        tree.score([ended])
        other.expand(other.root, score=True)
        yield Place(engine, tree, other, kid, pruned, ended)


Call = Callable[[Place], Any]
CALLS: dict[str, Call] = {
    "solve nothing": lambda at: at.engine.solve(None),  # type: ignore[arg-type]
    "solve a dict": lambda at: at.engine.solve({"problem": QUESTION}),  # type: ignore[arg-type]
    "solve a list": lambda at: at.engine.solve([QUESTION]),  # type: ignore[arg-type]
    "solve an empty question": lambda at: at.engine.solve(""),
    "submit a number": lambda at: at.engine.submit(5),  # type: ignore[arg-type]
    "a strategy of no name": lambda at: at.engine.solve(QUESTION, "best"),
    "no strategy": lambda at: at.engine.solve(QUESTION, None),  # type: ignore[arg-type]
    "a class for a strategy": lambda at: at.engine.solve(QUESTION, bw.BeamSearch),  # type: ignore[arg-type]
    "options beside a strategy": lambda at: at.engine.solve(QUESTION, bw.BeamSearch(), n=4),
    "an unknown option": lambda at: at.engine.solve(QUESTION, beams=4),
    "a callback that is none": lambda at: at.engine.solve(QUESTION, on_event=5),  # type: ignore[arg-type]
    "a stop that is empty": lambda at: at.engine.solve(QUESTION, stop=""),
    "a stop that is a number": lambda at: at.engine.solve(QUESTION, stop=5),
    "sampling by another name": lambda at: at.engine.sampling(warmth=1),
    "an instruction of 5": lambda at: bw.Engine(instruction=5),  # type: ignore[arg-type]
    "a config that is none": lambda at: bw.Engine(config={"max_rows": 4}),  # type: ignore[arg-type]
    "an empty PRM": lambda at: bw.Engine(prm=""),
    "solve_many of nothing": lambda at: at.engine.solve_many(None),  # type: ignore[arg-type]
    "solve_many of a question": lambda at: at.engine.solve_many(QUESTION),
    "cancel no ticket": lambda at: at.engine.cancel(None),  # type: ignore[arg-type]
    "open nothing": lambda at: at.engine.open(None),  # type: ignore[arg-type]
    "open no tokens": lambda at: at.engine.open([]),
    "open bytes": lambda at: at.engine.open(b"1+1=?"),  # type: ignore[arg-type]
    "open words among ids": lambda at: at.engine.open([1, "x"]),  # type: ignore[list-item]
    "open a token that is none": lambda at: at.engine.open([1, 10**6]),
    "open a token below zero": lambda at: at.engine.open([1, -1]),
    "open a turn without content": lambda at: at.engine.open([{"role": "user"}]),
    "open half a character": lambda at: at.engine.open("\ud800"),
    "open more branches than fit": lambda at: at.engine.open(QUESTION, branches=10**9),
    "expand nothing": lambda at: at.tree.expand(None),
    "expand another tree's root": lambda at: at.tree.expand(at.other.root),
    "expand what is pruned": lambda at: at.tree.expand(at.pruned),
    "expand what has ended": lambda at: at.tree.expand(at.ended),
    "expand by more than fits": lambda at: at.tree.expand(at.kid, 10**9),
    "expand with an unknown option": lambda at: at.tree.expand(at.kid, seed=5),
    "expand with a stop of 5": lambda at: at.tree.expand(at.kid, stop=5),
    "expand as no number": lambda at: at.tree.expand(at.kid, temperature="hot"),
    "expand with half a character": lambda at: at.tree.expand(at.kid, stop="\ud800"),
    "expand with a score of 5": lambda at: at.tree.expand(at.kid, score=5),
    "score nothing": lambda at: at.tree.score(None),
    "score a node": lambda at: at.tree.score(at.kid),
    "score None": lambda at: at.tree.score([at.kid, None]),
    "score the prompt": lambda at: at.tree.score([at.tree.root]),
    "score another tree": lambda at: at.tree.score([at.other.root]),
    "score what is pruned": lambda at: at.tree.score([at.pruned]),
    "prune nothing": lambda at: at.tree.prune(None),
    "prune another tree": lambda at: at.tree.prune(at.other.root),
    "expand_many of a number": lambda at: at.engine.expand_many(5),  # type: ignore[arg-type]
    "expand_many of no entries": lambda at: at.engine.expand_many([5]),  # type: ignore[list-item]
    "expand_many of pairs": lambda at: at.engine.expand_many([(at.tree, at.kid)]),
    "expand_many without a tree": lambda at: at.engine.expand_many([(None, at.kid, 1)]),
    "expand_many with a bad second": lambda at: at.engine.expand_many([(at.tree, at.kid, 2), (at.tree, None, 1)]),
    "expand_many with bad options": lambda at: at.engine.expand_many([(at.tree, at.kid, 2, {"stop": 5})]),
    **{f"deadline={value}": lambda at, value=value: at.engine.solve(QUESTION, deadline=value)
       for value in (0, -1, "x", True, math.nan, [])},
    **{f"n={value}": lambda at, value=value: at.engine.solve(QUESTION, n=value) for value in NUMBERS},
    **{f"seed={value}": lambda at, value=value: at.engine.solve(QUESTION, seed=value) for value in NUMBERS if value},
    **{f"max_tokens={value}": lambda at, value=value: at.engine.solve(QUESTION, max_tokens=value)
       for value in (0, -1, 2.5, "2", True, [])},
    **{f"top_k={value}": lambda at, value=value: at.engine.solve(QUESTION, top_k=value)
       for value in (-1, 2.5, "2", [])},
    **{f"temperature={value}": lambda at, value=value: at.engine.solve(QUESTION, temperature=value)
       for value in (-1, "2", math.nan, math.inf, [])},
    **{f"max_in_flight={value}": lambda at, value=value: at.engine.solve_many([QUESTION], max_in_flight=value)
       for value in (0, -1, 2.5, "2", True, [])},
    **{f"branches={value}": lambda at, value=value: at.engine.open(QUESTION, branches=value) for value in NUMBERS},
    **{f"expand n={value}": lambda at, value=value: at.tree.expand(at.kid, value) for value in NUMBERS},
    **{f"expand max_tokens={value}": lambda at, value=value: at.tree.expand(at.kid, max_tokens=value)
       for value in (0, -1, 2.5, "2", True, [])},
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_wrong_argument_is_one_line_and_changes_nothing(place: Place, call: Call) -> None:
    before = place.state()
    with pytest.raises(bw.BranchwiseError) as caught:
        call(place)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) > 20
    assert place.state() == before


def test_trees_grow_after_that_as_they_would_have(place: Place) -> None:
    with place.engine.open(QUESTION, branches=4) as fresh:
        expected = [(kid.tokens, kid.index) for kid in fresh.expand(fresh.root, 2)]
    with place.engine.open(QUESTION, branches=4) as tree:
        for n in (0, "2", 2.0, True):
            with pytest.raises(bw.ConfigError):
                tree.expand(tree.root, n)  # type: ignore[arg-type]
        with pytest.raises(bw.ConfigError):
            tree.expand(tree.root, 2, stop=5)
        assert tree.root.children == []
        assert [(kid.tokens, kid.index) for kid in tree.expand(tree.root, 2)] == expected


def test_a_ticket_asks_for_seconds_and_functions(place: Place) -> None:
    ticket = place.engine.submit(QUESTION, "greedy")
    for call in (lambda: ticket.result(timeout="1"), lambda: ticket.add_done_callback(None)):  # type: ignore[arg-type]
        with pytest.raises(bw.ConfigError, match=r"timeout='1'|callback=None"):
            call()
    with pytest.raises(TimeoutError):
        ticket.result(timeout=0)
    assert ticket.result().answer is not None


@pytest.mark.parametrize("n", [4, np.int64(4), np.uint8(4)])
def test_counts_may_come_from_an_array(place: Place, n: Any) -> None:
    assert len(place.engine.solve(QUESTION, "majority", n=n, max_steps=n).candidates) == 4


def test_a_closed_tree_says_so(place: Place) -> None:
    tree = place.engine.open(QUESTION)
    (kid,) = tree.expand(tree.root)
    tree.close()
    for call in (lambda: tree.expand(kid), lambda: tree.expand(tree.root), lambda: tree.score([kid])):
        with pytest.raises(bw.StaleNodeError, match="closed"):
            call()
    tree.prune(kid)
    tree.close()


def test_an_iteration_that_is_torn_leaves_no_unfinished_step(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked for leaves the tree, and what was fed leaves the KV: else the prompt would be read twice."""
    engine = place.engine
    with engine.open(QUESTION) as fresh:
        expected = [kid.tokens for kid in fresh.expand(fresh.root, 2)]
    model, sampler = type(engine.policy.runner), type(engine.policy.sampler)
    for owner, name in ((model, "count"), (sampler, "draw")):
        with engine.open(QUESTION) as tree:
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, lambda *args: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    tree.expand(tree.root, 2)
            assert tree.root.children == []
            assert engine.policy.idle
            assert [kid.index for kid in tree.expand(tree.root, 2)] == [2, 3]
            engine.policy.kv.tree.check()
        with engine.open(QUESTION) as tree:
            assert [kid.tokens for kid in tree.expand(tree.root, 2)] == expected


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=3),
    st.lists(st.integers(), max_size=3), st.just(object()), st.just(QUESTION),
)  # fmt: skip
NAMES = sorted({name for strategy in STRATEGIES for name in option_names(strategy)} | {
    "seed", "deadline", "on_event", "stop", "max_tokens", "max_step_tokens", "temperature", "top_p", "top_k", "min_p",
})  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    strategy=st.sampled_from(sorted(STRATEGIES)), options=st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=2)
)
def test_whatever_the_options_they_work_or_are_refused(place: Place, strategy: str, options: dict[str, Any]) -> None:
    before = place.state()
    with suppress(bw.BranchwiseError):
        place.engine.submit(QUESTION, strategy, **options).cancel()
    place.engine._service.turn()
    assert place.state() == before
