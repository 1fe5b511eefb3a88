"""Steps written ahead change nothing but the time: same trees in every state, whatever is pruned, closed or short."""

from __future__ import annotations

import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise.engine.engine import StepEngine
from branchwise.engine.forest import Forest
from branchwise.engine.policy_tree import PolicyTree
from branchwise.models.decoder import Decoder
from branchwise.types import Endings, Node, Sampling
from checkpoints import random_checkpoint
from engine.test_step_engine import SomeTokensStop, expand, make_engine, open_tree, run_until_idle, steps_of
from model_tools import cpu_decoder

MODEL: list[Decoder] = []


class ManyTokensStop(SomeTokensStop):
    """Stands in for the step detector: steps of one to nine tokens."""

    def ends(self, state: int, token: int) -> bool:
        return token % 4 == 0 or state == 8


def model() -> Decoder:
    if not MODEL:
        MODEL.append(cpu_decoder(random_checkpoint("llama", seed=11), torch.float32))
    return MODEL[0]


def draw(node: Node, what: str, below: int) -> int:
    """What becomes of a node depends on its place alone, never on when it was finished."""
    return zlib.crc32(f"{node.lineage_path} {what}".encode()) % below


def act(engine: StepEngine, tree: PolicyTree, node: Node, salt: str) -> None:
    """Prune a finished step, or ask for some children."""
    n = draw(node, salt, 4)
    if n == 0 or not tree.may_go_on(node):
        engine.prune(tree, node)
    else:
        expand(engine, tree, node, n)
    engine.kv.tree.check()


def grow(engine: StepEngine, tree: PolicyTree, salt: str, *, polls: int = 10**9) -> None:
    """Expand and prune by the rule of `act`, each step some polls after it was done, until nothing is left to do."""
    expand(engine, tree, tree.root, 3)
    waiting: list[tuple[int, Node]] = []  # polls until its turn, and the step
    while (waiting or not engine.idle) and polls:
        polls -= 1
        if not engine.idle:
            waiting += [(draw(node, "delay", 5), node) for _, node in engine.poll()]
            engine.kv.tree.check()
        due = [node for delay, node in waiting if delay == 0 or engine.idle]
        waiting = [(delay - 1, node) for delay, node in waiting if node not in due]
        for node in due:
            act(engine, tree, node, salt)


def started(*, speculate: bool, blocks: int = 400, max_rows: int = 64) -> tuple[StepEngine, PolicyTree]:
    engine = make_engine(model(), blocks, speculate=speculate, max_rows=max_rows)
    tree = open_tree(engine, list(range(4, 75)), Sampling(8.0), branches=2)
    detector = ManyTokensStop(engine.tokenizer)
    engine.detectors[Endings()] = tree.states[tree.root].detector = detector  # type: ignore[assignment]
    return engine, tree


def assert_empty(engine: StepEngine) -> None:
    assert engine.kv.free_blocks == engine.kv.n_blocks
    assert engine.idle
    assert not engine.rows.needs_host
    assert not engine.rows.ahead.children
    assert not engine.rows.ahead.growing


@settings(deadline=None, max_examples=5)
@given(st.text("abc", min_size=1, max_size=4), st.sampled_from([2, 5, 16]))
def test_the_tree_is_the_same_with_and_without(salt: str, max_rows: int) -> None:
    plain, expected = started(speculate=False)
    grow(plain, expected, salt)
    engine, tree = started(speculate=True, max_rows=max_rows)
    grow(engine, tree, salt)
    assert steps_of(tree.root) == steps_of(expected.root)
    assert tree.cost.generated_tokens == expected.cost.generated_tokens
    assert expected.cost.speculated_tokens == 0
    engine.close(tree)
    engine.close(tree)
    assert_empty(engine)


@settings(deadline=None, max_examples=5)
@given(st.text("abc", min_size=1, max_size=4), st.integers(1, 40))
def test_a_tree_can_be_closed_in_any_state(salt: str, polls: int) -> None:
    engine, tree = started(speculate=True)
    other = open_tree(engine, [7, 8, 9], Sampling(1.0), key=2)
    grow(engine, tree, salt, polls=polls)
    engine.close(tree)
    engine.kv.tree.check()
    expand(engine, other, other.root, 2)
    assert len(run_until_idle(engine)) == 2  # nothing of the closed tree is reported
    engine.close(other)
    assert_empty(engine)


def level(engine: StepEngine, tree: PolicyTree) -> list[Node]:
    """A level under a barrier: of the steps that stopped every other one is expanded, the rest pruned."""
    lowest = max((node.depth for node in tree.states if not tree.states[node].speculative), default=0)
    leaves = [node for node in tree.states if node.depth == lowest and not tree.states[node].speculative]
    for place, node in enumerate(sorted(leaves, key=lambda node: node.lineage_path)):
        if place % 2 == 0 and (node is tree.root or tree.may_go_on(node)):
            expand(engine, tree, node, 8 if node is tree.root else 2)
        else:
            engine.prune(tree, node)
    return run_until_idle(engine)


def test_it_takes_free_blocks_only_and_is_dropped_first(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, expected = started(speculate=False)
    most = 0
    for _ in range(4):
        assert level(plain, expected)
        most = max(most, plain.kv.n_blocks - plain.kv.free_blocks)
    drops = []
    drop = Forest.drop_ahead
    monkeypatch.setattr(Forest, "drop_ahead", lambda forest: drops.append(1) or drop(forest))
    engine, tree = started(speculate=True, blocks=most)  # not a block more than the search itself needs
    for _ in range(4):
        level(engine, tree)
        engine.kv.tree.check()
    assert drops
    assert steps_of(tree.root) == steps_of(expected.root)
    assert tree.cost.speculated_tokens > 0
    engine.close(tree)
    assert_empty(engine)


def test_what_was_written_in_vain_is_counted() -> None:
    engine, tree = started(speculate=True)
    expand(engine, tree, tree.root, 8)
    nodes = run_until_idle(engine)
    ahead = [item.state.node for item in engine.rows.ahead.children.values()]
    assert ahead
    assert tree.cost.speculated_tokens == sum(len(node.tokens) for node in ahead)
    assert tree.cost.generated_tokens == sum(len(node.tokens) for node in nodes)
    first = next(iter(engine.rows.ahead.children)).node
    expand(engine, tree, first, 1)
    run_until_idle(engine)
    assert first.children[0] in ahead
    for node in list(tree.states):
        engine.prune(tree, node)
    assert tree.cost.generated_tokens == sum(len(node.tokens) for node in [*nodes, *first.children])


def test_no_step_is_written_after_the_last() -> None:
    engine, tree = started(speculate=True)
    tree.max_steps = 1
    expand(engine, tree, tree.root, 8)
    run_until_idle(engine)
    assert not engine.rows.ahead.children
    assert tree.cost.speculated_tokens == 0
