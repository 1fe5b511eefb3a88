"""Wishes are taken back in any state: their steps leave the tree and free their KV, and all others stay as they are."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise.engine.engine import StepEngine
from branchwise.engine.policy_tree import PolicyTree
from branchwise.errors import StaleNodeError
from branchwise.types import Node, Sampling, StepOptions
from engine.test_speculation import assert_empty, draw, started
from engine.test_step_engine import expand, options_of, run_until_idle, steps_of


def grow(engine: StepEngine, tree: PolicyTree, *, cancelled_after: int | None) -> int:
    """Two levels below the root; between them, three steps of another wish are taken back. Returns what had begun."""
    expand(engine, tree, tree.root, 2)
    first = begun = None
    if cancelled_after is not None:
        first = expand(engine, tree, tree.root, 3)
        for _ in range(cancelled_after):
            if not engine.idle:
                engine.poll()
        begun = len(engine.cancel(tree, tree.root, first, 3))
        engine.kv.tree.check()
    else:
        tree.states[tree.root].asked += 3  # the same indices for what comes next
    run_until_idle(engine)
    expand(engine, tree, tree.root, 1)
    for node in list(tree.root.children):
        if node.finish == "stop":
            expand(engine, tree, node, 1 + draw(node, "width", 2))
    run_until_idle(engine)
    engine.kv.tree.check()
    return begun or 0


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 14), st.booleans())
def test_a_wish_is_taken_back_in_any_state(polls: int, speculate: bool) -> None:
    plain, expected = started(speculate=False)
    grow(plain, expected, cancelled_after=None)
    engine, tree = started(speculate=speculate)
    begun = grow(engine, tree, cancelled_after=polls)
    assert steps_of(tree.root) == steps_of(expected.root)
    assert tree.cost.generated_tokens == expected.cost.generated_tokens
    assert (tree.cost.cancelled_tokens > 0) == (begun > 0)
    engine.close(tree)
    assert_empty(engine)


def test_what_lies_below_goes_with_it() -> None:
    engine, tree = started(speculate=False)
    first = expand(engine, tree, tree.root, 3)
    run_until_idle(engine)
    left, right, *_ = (node for node in tree.root.children if node.finish == "stop")
    expand(engine, tree, left, 2)
    expand(engine, tree, right, 2)
    engine.poll()
    gone = engine.cancel(tree, tree.root, first + left.index, 1)
    assert gone[0] is left
    assert {node.parent for node in gone[1:]} == {left}
    assert left not in tree.root.children
    done = run_until_idle(engine)
    assert {node.parent for node in done} == {right}
    engine.kv.tree.check()
    engine.close(tree)
    assert_empty(engine)


def test_a_step_written_ahead_in_another_way_is_not_taken() -> None:
    engine, tree = started(speculate=True)
    expand(engine, tree, tree.root, 4)
    run_until_idle(engine)
    parent = next(iter(engine.rows.ahead.children)).node
    other = StepOptions(Sampling(0.0), tree.settings.endings, 3)
    engine.expand(tree, parent, 2, other)
    done = run_until_idle(engine)
    assert [node.index for node in sorted(done, key=lambda node: node.index)] == [0, 1]
    assert done[0].tokens == done[1].tokens  # greedy: both alike
    assert len(done[0].tokens) <= 3

    plain, expected = started(speculate=False)
    expand(plain, expected, expected.root, 4)
    run_until_idle(plain)
    twin: Node = expected.root.children[parent.index]
    plain.expand(expected, twin, 2, other)
    run_until_idle(plain)
    assert [node.tokens for node in twin.children] == [node.tokens for node in parent.children]
    assert options_of(tree) != other
    engine.close(tree)
    assert_empty(engine)


def test_a_tree_that_is_not_there_any_more_has_nothing_to_take_back() -> None:
    engine, tree = started(speculate=False)
    expand(engine, tree, tree.root, 2)
    engine.poll()
    engine.close(tree)
    assert_empty(engine)
    with pytest.raises(StaleNodeError, match="closed"):
        expand(engine, tree, tree.root, 1)
