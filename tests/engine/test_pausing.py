"""KV that makes room for others comes back bit for bit: paused trees, steps that nothing grows from, in every state."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise.engine.engine import StepEngine
from branchwise.engine.policy_tree import PolicyTree
from branchwise.errors import OutOfMemory
from branchwise.types import Node, Sampling
from engine.test_speculation import act, assert_empty, draw, started
from engine.test_step_engine import expand, open_tree, run_until_idle, steps_of


def held_blocks(engine: StepEngine) -> int:
    return engine.kv.n_blocks - engine.kv.free_blocks


def grow(engine: StepEngine, trees: list[PolicyTree], salt: str, disturb: random.Random | None) -> None:
    """Expand and prune by the rule of `act`; meanwhile trees are paused, resumed and freed of idle KV, at random."""
    for tree in trees:
        expand(engine, tree, tree.root, 3)
    waiting: list[tuple[int, PolicyTree, Node]] = []
    while waiting or not engine.idle or any(tree.paused for tree in trees):
        if disturb is not None:
            for tree in trees:
                (what,) = disturb.choices(["pause", "resume", "shed", "nothing"], [1, 6, 1, 12])
                if what == "resume" and tree.paused:
                    engine.resume(tree)
                elif what == "pause" and not tree.paused:
                    engine.pause(tree)
                    assert tree.lease.blocks == tree.lease.tokens == 0
                elif what == "shed":
                    engine.shed(tree)
                engine.kv.tree.check()
        if not engine.idle:
            waiting += [(draw(node, "delay", 5), tree, node) for tree, node in engine.poll()]
            engine.kv.tree.check()
        assert sum(tree.lease.blocks for tree in trees) == held_blocks(engine)
        due = [(tree, node) for delay, tree, node in waiting if delay == 0 or engine.idle]
        waiting = [(delay - 1, *rest) for delay, *rest in waiting if tuple(rest) not in due]
        for tree, node in due:
            act(engine, tree, node, salt)


@settings(deadline=None, max_examples=8)
@given(
    st.text("abc", min_size=1, max_size=4),
    st.integers(0, 999),
    st.booleans(),
    st.sampled_from([(3, 40), (5, 512), (64, 16), (64, 512)]),
)
def test_paused_trees_come_to_the_same_end(salt: str, order: int, speculate: bool, rows: tuple[int, int]) -> None:
    found = []
    for how in (None, random.Random(order)):
        engine, tree = started(speculate=speculate and how is not None)
        engine.rows.max_rows, engine.rows.prefill_rows = rows
        penalised = Sampling(2.0, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2)
        trees = [tree, open_tree(engine, list(range(9, 20)), penalised, key=2)]
        grow(engine, trees, salt, how)
        found.append([(steps_of(each.root), each.cost.generated_tokens) for each in trees])
        assert how is not None or all(each.cost.rebuilt_tokens == 0 for each in trees)
        for each in trees:
            engine.close(each)
        assert_empty(engine)
    assert found[0] == found[1]


def test_only_what_is_needed_is_fed_again() -> None:
    """Of the paths of the rows, each step once; a step that nothing grows from when somebody asks for its children."""
    engine, tree = started(speculate=False)
    expand(engine, tree, tree.root, 6)
    done = run_until_idle(engine)
    stopped = [node for node in done if node.finish == "stop"][:4]
    for node in stopped[:3]:
        expand(engine, tree, node, 2)
    engine.poll()
    held = tree.lease.tokens
    engine.pause(tree)
    engine.kv.prefixes.clear()  # else the prompt is still there
    assert engine.idle
    engine.resume(tree)
    engine.poll()  # the prompt
    assert tree.cost.rebuilt_tokens == tree.prompt_tokens
    engine.poll()  # the three steps that are expanded
    before = tree.cost.rebuilt_tokens
    assert before == tree.prompt_tokens + sum(len(node.tokens) for node in stopped[:3])
    assert before < held
    run_until_idle(engine)
    again = tree.cost.rebuilt_tokens
    expand(engine, tree, stopped[3], 1)
    run_until_idle(engine)
    assert tree.cost.rebuilt_tokens == again + len(stopped[3].tokens) - 1  # the last one had never been fed
    engine.close(tree)
    assert_empty(engine)


def test_a_tree_can_be_pruned_cancelled_and_closed_while_it_is_paused() -> None:
    engine, tree = started(speculate=True)
    expand(engine, tree, tree.root, 3)
    stopped = [node for node in run_until_idle(engine) if node.finish == "stop"]
    wishes = [(node, expand(engine, tree, node, 2)) for node in stopped]
    engine.poll()
    engine.pause(tree)
    assert_empty(engine)
    (kept, first), *others = wishes
    for node, index in others:
        begun = engine.cancel(tree, node, index, 2)
        assert not node.children
        assert all(each.parent is node for each in begun)
        engine.prune(tree, node)
    late = expand(engine, tree, kept, 1)
    assert engine.idle
    engine.cancel(tree, kept, late, 1)
    engine.prune(tree, tree.root)
    engine.resume(tree)
    done = run_until_idle(engine)
    assert {node.index for node in done} == {first, first + 1}
    engine.kv.tree.check()
    engine.pause(tree)
    engine.close(tree)
    assert_empty(engine)


def test_trees_that_never_fit_together_grow_in_turn() -> None:
    """Each makes room for the other while nothing grows in it."""
    plenty, expected = started(speculate=False)
    engine, tree = started(speculate=False, blocks=13)
    trees = [tree, open_tree(engine, list(range(4, 70)), Sampling(1.0), key=2)]
    twins = [expected, open_tree(plenty, list(range(4, 70)), Sampling(1.0), key=2)]
    shed = 0
    for turn in range(4):
        for at, grown in ((engine, trees), (plenty, twins)):
            expand(at, grown[turn % 2], grown[turn % 2].root, 8)
            while not at.idle:
                try:
                    at.poll()
                except OutOfMemory:
                    shed += 1
                    assert at.shed(grown[1 - turn % 2])
                at.kv.tree.check()
    assert [steps_of(each.root) for each in trees] == [steps_of(each.root) for each in twins]
    assert shed == 3
    expand(engine, tree, tree.root, 12)
    with pytest.raises(OutOfMemory):
        run_until_idle(engine)
    for each in trees:
        engine.close(each)
    assert_empty(engine)
