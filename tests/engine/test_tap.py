"""Hidden states of steps: those that tokens were drawn from, whatever runs beside them and whatever becomes of KV."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from branchwise.engine.engine import StepEngine
from branchwise.engine.kv import KvCache
from branchwise.engine.policy_tree import PolicyTree
from branchwise.engine.runner import Feed, Runner
from branchwise.engine.tap import Tap
from branchwise.models.decoder import Decoder
from branchwise.types import Endings, Node, Sampling
from checkpoints import random_checkpoint
from engine.test_pausing import grow as grow_disturbed
from engine.test_speculation import ManyTokensStop, assert_empty
from engine.test_speculation import model as llama
from engine.test_step_engine import DTYPES, grow, make_engine, open_tree
from model_tools import cpu_decoder

LAYERS = {"inner": (1,), "last": (3,), "both": (1, 3), "first": (0, 2)}
PROMPT = list(range(4, 75))


def states_of(root: Node) -> dict[tuple[int, ...], tuple[list[int], list[float] | None]]:
    """Tokens and states of every step, by path."""
    found = {}
    stack = list(root.children)
    while stack:
        node = stack.pop()
        found[node.lineage_path] = node.tokens, None if node.states is None else node.states.tolist()
        stack += node.children
    return found


def recomputed(model: Decoder, prompt: list[int], node: Node, tap: Tap) -> Tensor:
    """The states of a step from the texts alone: a node a step, all of it fed at once."""
    last_layer, hidden = model.config.n_layers, model.config.hidden_size
    kv = KvCache(model.config, 64, model.dtype, model.backend)
    runner = Runner(model, kv, [layer for layer in tap.layers if layer < last_layer])
    kept = slice(0 if last_layer in tap.layers else hidden, None)
    handle = runner.kv.tree.add_root()
    (states,) = runner.forward_rows([Feed(handle, prompt)])
    before, total, count = states[-1, kept].float(), torch.zeros(len(tap.layers) * hidden), 0
    for step in node.path:
        runner.kv.tree.seal(handle)
        (handle,) = runner.kv.tree.fork(handle, 1)
        (states,) = runner.forward_rows([Feed(handle, step.tokens)])
        drawn_from = [before, *states[:-1, kept].float()]
        for state in drawn_from:
            total, count = total + state, count + 1
        before = states[-1, kept].float()
    return torch.cat([total / count, before if tap.after else drawn_from[-1]])


@pytest.fixture(params=["llama-fp32", "qwen2-bf16", "gemma3-fp32"])
def model(request: pytest.FixtureRequest) -> Decoder:
    family, dtype = request.param.split("-")
    return cpu_decoder(random_checkpoint(family, seed=11), DTYPES[dtype])


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_they_are_those_that_tokens_were_drawn_from(model: Decoder, layers: tuple[int, ...], after: bool) -> None:
    tap = Tap(layers, after)
    engine = make_engine(model, tap=tap)
    trees = [open_tree(engine, PROMPT, Sampling(1.0), states=True), open_tree(engine, PROMPT[:9], Sampling(1.0), key=2)]
    grow(engine, trees, width=3, depth=3)
    nodes = [node for node in trees[0].states if node.parent is not None]
    assert len(nodes) > 10
    for node in nodes[::3]:
        assert torch.equal(node.states, recomputed(model, PROMPT, node, tap))
    assert all(node.states is None for node in trees[1].states)  # nobody asked


def test_nothing_is_kept_without_a_tap(model: Decoder) -> None:
    engine = make_engine(model)
    tree = open_tree(engine, PROMPT, Sampling(1.0), states=True)
    grow(engine, [tree], width=2, depth=2)
    assert all(node.states is None for node in tree.states)
    assert all(state.sum is None and state.last is None for state in tree.states.values())


def test_tokens_are_the_same_with_a_tap(model: Decoder) -> None:
    found = []
    for tap in (Tap(), Tap((1, 3)), Tap((1,), after=True)):
        engine = make_engine(model, tap=tap)
        tree = open_tree(engine, PROMPT, Sampling(1.2, top_p=0.9), states=True)
        grow(engine, [tree], width=3, depth=3)
        found.append({path: tokens for path, (tokens, _) in states_of(tree.root).items()})
    assert found[0] == found[1] == found[2]


def planted(tap: Tap, *, speculate: bool, max_rows: int, prefill_rows: int) -> tuple[StepEngine, list[PolicyTree]]:
    engine = make_engine(llama(), 400, tap=tap, speculate=speculate, max_rows=max_rows, prefill_rows=prefill_rows)
    trees = [
        open_tree(engine, PROMPT, Sampling(8.0), branches=2, states=True),
        open_tree(engine, PROMPT[:11], Sampling(2.0), key=2, states=True),
        open_tree(engine, PROMPT[:30], Sampling(2.0), key=3),
    ]
    detector = ManyTokensStop(engine.tokenizer)
    for tree in trees:
        engine.detectors[Endings()] = tree.states[tree.root].detector = detector  # type: ignore[assignment]
    return engine, trees


@settings(deadline=None, max_examples=8)
@given(
    st.text("abc", min_size=1, max_size=4),
    st.integers(0, 999),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(3, 40), (5, 512), (64, 16), (64, 512)]),
)
def test_neither_batches_nor_pauses_nor_steps_written_ahead_change_them(
    salt: str, order: int, speculate: bool, after: bool, rows: tuple[int, int]
) -> None:
    found = []
    for how in (None, random.Random(order)):
        tap = Tap((1, 3), after)
        engine, trees = planted(
            tap, speculate=speculate and how is not None, max_rows=rows[0] if how else 64, prefill_rows=rows[1]
        )
        grow_disturbed(engine, trees, salt, how)
        found.append([states_of(tree.root) for tree in trees])
        for tree in trees:
            engine.close(tree)
        assert_empty(engine)
    assert found[0] == found[1]
    assert all(states is not None for tree in found[0][:2] for _, states in tree.values())
    assert all(states is None for _, states in found[0][2].values())


def test_states_that_nobody_has_read_go_with_their_tree() -> None:
    engine, trees = planted(Tap((1,)), speculate=False, max_rows=64, prefill_rows=512)
    grow(engine, trees[:1], width=2, depth=2)
    nodes = [node for node in trees[0].states if node.parent is not None]
    assert all(node.states is not None for node in nodes)
    engine.close(trees[0])
    assert all(node.states is None for node in nodes)
