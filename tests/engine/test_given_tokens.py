"""Steps that begin with given tokens, and further prompts: bit for bit what they are alone, and paid for as prefill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise._C import lineage_child
from branchwise.engine.engine import StepEngine
from branchwise.engine.kv import KvCache
from branchwise.engine.policy_tree import PolicyTree
from branchwise.engine.runner import Feed, Runner
from branchwise.engine.tap import NO_TAP, Tap
from branchwise.errors import ConfigError, InputError, OutOfMemory, StaleNodeError
from branchwise.types import Endings, Node, Sampling, Settings, StepOptions
from engine.test_speculation import ManyTokensStop, assert_empty, model
from engine.test_step_engine import expand, make_engine, open_tree, options_of, run_until_idle, steps_of

PROMPT = list(range(4, 75))
OTHER = list(range(20, 50))
FEED = "so it is 7"
Bits = tuple[list[int], float, str | None]


class Stop(ManyTokensStop):
    """Given tokens count for nothing."""

    def skip(self, state: int, tokens: Sequence[int]) -> int:
        return state


def started(
    *,
    blocks: int = 400,
    max_rows: int = 64,
    prefill_rows: int = 512,
    speculate: bool = False,
    tap: Tap = NO_TAP,
    **caps: int,
):
    engine = make_engine(model(), blocks, speculate=speculate, max_rows=max_rows, prefill_rows=prefill_rows, tap=tap)
    tree = open_tree(engine, PROMPT, Sampling(8.0), branches=2)
    tree.settings = replace(tree.settings, **caps)
    root = tree.states[tree.root]
    root.most = len(PROMPT) + tree.settings.max_tokens
    engine.detectors[Endings()] = root.detector = Stop(engine.tokenizer)  # type: ignore[assignment]
    return engine, tree


def fed(tree: PolicyTree, text: str = FEED, **options: object) -> StepOptions:
    return replace(options_of(tree), feed=text, **options)  # type: ignore[arg-type]


def bits(node: Node) -> Bits:
    return node.tokens, node.logprob, node.finish


def stopped_child(engine: StepEngine, tree: PolicyTree) -> Node:
    expand(engine, tree, tree.root, 4)
    return next(node for node in run_until_idle(engine) if node.finish == "stop")


def test_a_step_begins_with_what_is_given():
    engine, tree = started()
    node = stopped_child(engine, tree)
    ids = engine.tokenizer.encode(FEED)
    engine.expand(tree, node, 3, fed(tree))
    done = sorted(run_until_idle(engine), key=lambda each: each.index)
    assert len({tuple(each.tokens) for each in done}) > 1
    for child in done:
        assert child.tokens[: child.given] == ids
        assert child.text.startswith(FEED)
        assert child.cost.prefill_tokens == len(ids)
        assert child.cost.generated_tokens == len(child.tokens) - len(ids) > 0
    written = sum(each.cost.generated_tokens for each in tree.root.children + done)
    assert tree.cost.generated_tokens == written
    engine.close(tree)
    assert_empty(engine)


def test_given_tokens_are_read_as_if_they_had_been_written():
    """At temperature 0 as a prompt of the same tokens is gone on with."""
    engine, tree = started()
    node = stopped_child(engine, tree)
    greedy = fed(tree, sampling=Sampling(0.0))
    engine.expand(tree, node, 1, greedy)
    (child,) = run_until_idle(engine)
    whole = [*PROMPT, *node.tokens, *child.tokens[: child.given]]
    plain, alone = make_engine(model(), 400), None
    alone = open_tree(plain, whole, Sampling(0.0))
    plain.detectors[Endings()] = alone.states[alone.root].detector = Stop(plain.tokenizer)  # type: ignore[assignment]
    plain.expand(alone, alone.root, 1, replace(greedy, feed=""))
    (expected,) = run_until_idle(plain)
    assert child.tokens[child.given :] == expected.tokens
    assert child.logprob == pytest.approx(expected.logprob, abs=1e-3)
    assert child.finish == expected.finish


def grown(act: Callable[[StepEngine, PolicyTree], None] = lambda engine, tree: None, **options: object):
    """The same wishes, with some disturbance: two fed children below a step, a prompt with two children below it."""
    engine, tree = started(**options)  # type: ignore[arg-type]
    node = stopped_child(engine, tree)
    engine.expand(tree, node, 2, fed(tree))
    planted = engine.plant(tree, node, OTHER, tree.settings)
    expand(engine, tree, planted, 2)
    engine.expand(tree, tree.root, 1, fed(tree))
    for _ in range(3):
        engine.poll()
    act(engine, tree)
    run_until_idle(engine)
    engine.kv.tree.check()
    for child in planted.children:
        if child.finish == "stop":
            expand(engine, tree, child, 1)
    run_until_idle(engine)
    found = steps_of(tree.root)
    cost = tree.cost.generated_tokens
    engine.close(tree)
    assert_empty(engine)
    return found, cost


def pause(engine: StepEngine, tree: PolicyTree) -> None:
    engine.pause(tree)
    engine.kv.prefixes.clear()
    engine.kv.tree.check()
    engine.resume(tree)


def beside(engine: StepEngine, tree: PolicyTree) -> None:
    other = open_tree(engine, OTHER[::-1], Sampling(3.0), key=9)
    engine.expand(other, other.root, 5, options_of(other))
    engine.poll()
    engine.close(other)


@settings(deadline=None, max_examples=12)
@given(st.sampled_from([None, pause, beside]), st.integers(1, 9), st.sampled_from([3, 8, 512]), st.booleans())
def test_nothing_else_matters(act, max_rows: int, prefill_rows: int, speculate: bool) -> None:
    expected = grown()
    found, cost = grown(
        act or (lambda engine, tree: None), max_rows=max_rows, prefill_rows=prefill_rows, speculate=speculate
    )
    assert found == expected[0]
    assert speculate or cost == expected[1]


def test_a_prompt_is_that_of_a_tree_of_its_own():
    engine, tree = started()
    node = stopped_child(engine, tree)
    planted = engine.plant(tree, node, OTHER, tree.settings)
    assert planted.parent is node
    assert (planted.depth, planted.path, planted.given) == (0, [], len(OTHER))
    assert planted.lineage == lineage_child(node.lineage, 0)
    expand(engine, tree, planted, 3)
    done = run_until_idle(engine)
    assert {each.depth for each in done} == {1}
    assert all(each.prompt is planted for each in done)
    assert [each.branch_text for each in done] == [each.text for each in done]
    assert planted.cost.prefill_tokens + planted.cost.cached_tokens == len(OTHER)

    alone, own = started()
    tree_of_its_own = alone.open(
        OTHER, lineage=planted.lineage, branches=3, paths=3, steps=6, settings=own.settings
    )  # fmt: skip
    alone.expand(tree_of_its_own, tree_of_its_own.root, 3, options_of(own))
    assert sorted(map(bits, run_until_idle(alone))) == sorted(map(bits, done))


def test_a_prompt_outlives_what_it_stands_below():
    engine, tree = started()
    node = stopped_child(engine, tree)
    planted = engine.plant(tree, node, OTHER, tree.settings)
    for each in list(tree.root.children):
        engine.prune(tree, each)
    engine.prune(tree, tree.root)
    assert tree.lease.tokens == 0
    expand(engine, tree, planted, 2)
    assert len(run_until_idle(engine)) == 2
    engine.close(tree)
    assert_empty(engine)


@pytest.mark.parametrize("polls", range(5))
@pytest.mark.parametrize("speculate", [False, True])
def test_both_are_taken_back_in_any_state(polls: int, speculate: bool) -> None:
    engine, tree = started(speculate=speculate)
    node = stopped_child(engine, tree)
    before = tree.cost.generated_tokens
    first = engine.expand(tree, node, 2, fed(tree))
    planted = engine.plant(tree, node, OTHER, tree.settings)
    expand(engine, tree, planted, 2)
    for _ in range(polls):
        engine.poll()
    engine.cancel(tree, node, first, 2)
    engine.cancel(tree, node, planted.index, 1)
    engine.kv.tree.check()
    assert node.children == []
    assert tree.cost.generated_tokens == before
    expand(engine, tree, node, 1)
    (child,) = run_until_idle(engine)
    assert child.index == 3
    engine.close(tree)
    assert_empty(engine)


def test_a_branch_ends_before_what_does_not_fit():
    """Given tokens count for the solution, and the cap of a step does not count them."""
    engine, tree = started(max_tokens=30)
    node = stopped_child(engine, tree)
    room = 30 - len(node.tokens)
    engine.expand(tree, node, 1, fed(tree, "x" * room))
    engine.expand(tree, node, 1, fed(tree, "x" * (room - 2)))
    engine.expand(tree, node, 1, fed(tree, "x" * 5, max_tokens=1))
    over, two, one = sorted(run_until_idle(engine), key=lambda each: each.index)
    assert (over.tokens, over.text, over.finish, over.cut, over.cost.prefill_tokens) == ([], "", "length", "tokens", 0)
    assert (len(two.tokens), two.cut) in [(room, "tokens"), (room - 1, None)]
    assert len(one.tokens) == 6
    engine.close(tree)
    assert_empty(engine)


def test_caps_are_those_of_the_prompt():
    engine, tree = started()
    engine.context = 100
    planted = engine.plant(tree, tree.root, list(range(10, 94)), Settings(max_tokens=60))
    expand(engine, tree, planted, 4)
    for each in run_until_idle(engine):
        assert len(each.tokens) <= 16
        assert each.cut in (None, "context")
    assert engine.plant(tree, tree.root, OTHER, Settings(max_tokens=3)).index == 1
    engine.close(tree)


def test_what_cannot_be():
    engine, tree = started(blocks=12)
    with pytest.raises(InputError, match="the prompt is empty"):
        engine.plant(tree, tree.root, [], tree.settings)
    with pytest.raises(InputError, match=r"token 1 is 128: .* ids 0 to 127"):
        engine.plant(tree, tree.root, [1, 128], tree.settings)
    with pytest.raises(InputError, match="the model's context is"):
        engine.plant(tree, tree.root, [1] * engine.context, tree.settings)
    with pytest.raises(OutOfMemory, match="for a prompt of 1,000 tokens"):
        engine.plant(tree, tree.root, [1] * 1000, tree.settings)
    assert tree.root.children == []
    engine.prune(tree, tree.root)
    with pytest.raises(StaleNodeError):
        engine.plant(tree, tree.root, OTHER, tree.settings)
    for feed in ("", 3, "\ud800"):
        with pytest.raises(ConfigError, match="feed="):
            Settings().step(feed=feed)  # type: ignore[arg-type]
    engine.close(tree)
    assert_empty(engine)


def test_penalties_know_of_given_tokens_and_of_the_prompt():
    """A word of the prompt, and one that was given, are no more likely to come after them."""
    engine, tree = started()
    planted = engine.plant(tree, tree.root, OTHER, tree.settings)
    sampling = Sampling(0.0, repetition_penalty=50.0)
    engine.expand(tree, planted, 1, fed(tree, sampling=sampling))
    (child,) = run_until_idle(engine)
    assert not set(child.tokens[child.given :]) & {*OTHER, *child.tokens[: child.given]}


def test_hidden_states_are_those_that_tokens_were_drawn_from():
    """Given tokens are read, and count for no mean."""
    engine, tree = started(tap=Tap((3,)))
    tree.settings = replace(tree.settings, states=True)
    engine.expand(tree, tree.root, 1, fed(tree, sampling=Sampling(0.0)))
    (child,) = run_until_idle(engine)
    kv = KvCache(engine.model.config, 64, engine.model.dtype, engine.model.backend)
    (states,) = Runner(engine.model, kv).forward_rows([Feed(kv.tree.add_root(), [*PROMPT, *child.tokens])])
    drawn_from = states[len(PROMPT) + child.given - 1 : -1].float()
    expected = torch.cat([drawn_from.mean(0), drawn_from[-1]])
    assert child.states is not None
    assert torch.allclose(child.states, expected, atol=1e-4)
