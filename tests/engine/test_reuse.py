"""Prompts that begin alike are fed once: trees stay the same, bit for bit, also in little memory, which comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise.engine.engine import StepEngine
from branchwise.engine.policy_tree import PolicyTree
from branchwise.errors import OutOfMemory
from branchwise.models.decoder import Decoder
from branchwise.types import Endings, PromptLogprobs, Sampling, Settings
from checkpoints import random_checkpoint
from engine.test_step_engine import SomeTokensStop, Steps, expand, make_engine, run_until_idle, steps_of
from model_tools import cpu_decoder

MODEL: list[Decoder] = []
SYSTEM = [3 + place * 7 % 80 for place in range(300)]  # longer than a chunk of 256
PLAIN = Settings(Sampling(1.0), max_tokens=60, max_step_tokens=20, seed=5)
PENALISED = Sampling(1.0, repetition_penalty=1.4, frequency_penalty=0.3)


def engine_of(blocks: int = 400, **options: int) -> StepEngine:
    if not MODEL:
        MODEL.append(cpu_decoder(random_checkpoint("llama", seed=11), torch.float32))
    engine = make_engine(MODEL[0], blocks, **options)
    engine.detectors[Endings()] = SomeTokensStop(engine.tokenizer)  # type: ignore[assignment]
    return engine


def open_tree(engine: StepEngine, prompt: list[int], settings: Settings = PLAIN, key: int = 1) -> PolicyTree:
    tree = engine.open(prompt, lineage=key, branches=8, paths=8, steps=6, settings=settings)
    assert tree is not None
    return tree


def grow(engine: StepEngine, tree: PolicyTree, n: int = 3) -> Steps:
    """Two levels of steps."""
    expand(engine, tree, tree.root, n)
    for node in run_until_idle(engine):
        if node.finish == "stop":
            expand(engine, tree, node, 2)
    run_until_idle(engine)
    return steps_of(tree.root)


def search(engine: StepEngine, prompt: list[int], settings: Settings = PLAIN, key: int = 1) -> tuple[Steps, int, int]:
    """The steps of a tree that is closed again, and how much of its prompt was fed and taken."""
    tree = open_tree(engine, prompt, settings, key)
    steps = grow(engine, tree)
    engine.close(tree)
    engine.kv.tree.check()
    assert engine.kv.tree.n_free_blocks + engine.kv.prefixes.n_blocks == engine.kv.free_blocks == engine.kv.n_blocks
    assert tree.root.cost.prefill_tokens + tree.root.cost.cached_tokens == len(prompt)
    return steps, tree.root.cost.prefill_tokens, tree.root.cost.cached_tokens


def fed(engine: StepEngine) -> int:
    return engine.runner.stats.rows


@pytest.mark.parametrize("sampling", [Sampling(1.0), PENALISED])
def test_prompts_that_begin_alike_are_fed_from_where_they_differ(sampling: Sampling) -> None:
    cached, written = engine_of(), replace(PLAIN, sampling=sampling)
    prompts = [[*SYSTEM, 9, 8, 7], [*SYSTEM, 50, 51], [*SYSTEM, 9, 8, 7], SYSTEM[:280], SYSTEM[:200]]
    for prompt, taken in zip(prompts, [0, 256, 303, 256, 0], strict=True):
        before = fed(cached)
        steps, prefilled, found = search(cached, prompt, written)
        assert found == taken
        plain = engine_of()
        assert search(plain, prompt, replace(written, reuse=False)) == (steps, len(prompt), 0)
        assert len(plain.kv.prefixes) == 0
        assert fed(cached) - before == fed(plain) - taken
        assert prefilled == len(prompt) - taken


def test_prompts_that_come_together_are_fed_once() -> None:
    plain, cached = engine_of(), engine_of(prefill_rows=100)
    prompts = [[*SYSTEM, 9], [*SYSTEM, 9], [*SYSTEM, 8], [4, 5, 6], [*SYSTEM, 9]]
    trees = [open_tree(cached, prompt, key=key) for key, prompt in enumerate(prompts)]
    for tree in trees:
        expand(cached, tree, tree.root, 3)
    run_until_idle(cached)
    costs = [(tree.root.cost.prefill_tokens, tree.root.cost.cached_tokens) for tree in trees]
    assert costs == [(301, 0), (0, 301), (45, 256), (3, 0), (0, 301)]
    for key, (tree, prompt) in enumerate(zip(trees, prompts, strict=True)):
        twin = open_tree(plain, prompt, replace(PLAIN, reuse=False), key)
        expand(plain, twin, twin.root, 3)
        run_until_idle(plain)
        assert steps_of(tree.root) == steps_of(twin.root)


@pytest.mark.parametrize("end", ["cancel", "prune", "close", "pause"])
def test_nobody_waits_for_a_prompt_that_is_given_up(end: str) -> None:
    engine = engine_of(prefill_rows=100)
    first, second = (open_tree(engine, [*SYSTEM, 9], key=key) for key in (1, 2))
    for tree in (first, second):
        expand(engine, tree, tree.root, 2)
    engine.poll()
    if end == "cancel":
        engine.cancel(first, first.root, 0, 2)
    elif end == "prune":
        engine.prune(first, first.root)
    elif end == "close":
        engine.close(first)
    else:
        engine.pause(first)
    run_until_idle(engine)
    assert len(second.root.children) == 2
    assert second.root.cost.prefill_tokens == 301
    for tree in (first, second):
        engine.close(tree)
    assert engine.kv.free_blocks == engine.kv.n_blocks


def test_a_tree_without_reuse_takes_and_leaves_nothing() -> None:
    engine = engine_of()
    search(engine, [*SYSTEM, 9])
    assert search(engine, [*SYSTEM, 9], replace(PLAIN, reuse=False))[1:] == (301, 0)
    assert search(engine, [*SYSTEM, 9])[1:] == (0, 301)
    other = engine_of()
    search(other, [*SYSTEM, 9], replace(PLAIN, reuse=False))
    assert search(other, [*SYSTEM, 9])[1:] == (301, 0)


def test_what_a_completion_wrote_is_gone_on_from() -> None:
    """As a loop does that sends question and answer again and again, with a line more each time."""
    engine, loose = engine_of(), replace(PLAIN, exact=False, max_tokens=40, max_step_tokens=40)
    prompt = [5 + place * 11 % 70 for place in range(45)]
    known = 0
    for turn in range(5):
        tree = open_tree(engine, prompt, loose, key=turn)
        expand(engine, tree, tree.root, 2)
        run_until_idle(engine)
        engine.close(tree)
        cost = tree.root.cost
        assert cost.cached_tokens >= known
        assert cost.prefill_tokens + cost.cached_tokens == len(prompt)
        assert cost.prefill_tokens <= (45 if turn == 0 else 2 + 1 + 32)  # what is new, the last token drawn, a block
        written = tree.root.children[turn % 2].tokens
        known = len(prompt) + len(written) - 1 - 31
        prompt = [*prompt, *written, 20 + turn, 21]
    assert engine.kv.free_blocks == engine.kv.n_blocks


def test_prompt_logprobs_are_the_same_behind_a_kept_prefix() -> None:
    cached, plain = engine_of(), engine_of()
    search(cached, [*SYSTEM, 9])
    for start, taken in ((280, 256), (100, 0), (1, 0)):
        wish = replace(PLAIN, prompt_logprobs=PromptLogprobs(2, start))
        found = []
        for engine, each in ((cached, wish), (plain, replace(wish, reuse=False))):
            tree = open_tree(engine, [*SYSTEM, 9], each)
            expand(engine, tree, tree.root, 1)
            run_until_idle(engine)
            found.append((tree.root.logprobs, steps_of(tree.root)))
            assert tree.root.cost.cached_tokens == (taken if engine is cached else 0)
            engine.close(tree)
        assert found[0] == found[1]
        assert len(found[0][0] or []) == 301 - start


def run(engine: StepEngine, trees: list[PolicyTree], polls: int = 10**9) -> None:
    """Let trees grow; where memory is short, what rests goes, and then the youngest one waits until others are done."""
    while polls and not engine.idle:
        polls -= 1
        try:
            engine.poll()
        except OutOfMemory:
            if not any(engine.shed(tree) for tree in trees):
                engine.pause([tree for tree in trees if not tree.paused][-1])
        engine.kv.tree.check()


@settings(deadline=None, max_examples=15)
@given(st.data(), st.sampled_from([18, 30, 45, 400]), st.sampled_from([40, 300, 512]))
def test_trees_are_the_same_in_any_order_and_in_little_memory(data: st.DataObject, blocks: int, rows: int) -> None:
    """Trees with prompts that begin alike come, grow at the same time, pause and go; kept prefixes are evicted."""
    engine, plain = engine_of(blocks, prefill_rows=rows), engine_of()
    trees: list[PolicyTree] = []

    def end(tree: PolicyTree) -> None:
        """It grows to its end, is compared, and closed."""
        while tree.paused or not engine.idle:
            if engine.idle:
                engine.resume(tree)
            run(engine, trees)
        expected = open_tree(plain, list(tree.prompt), replace(PLAIN, reuse=False), tree.root.lineage)
        expand(plain, expected, expected.root, 2)
        run_until_idle(plain)
        assert steps_of(tree.root) == steps_of(expected.root)
        plain.close(expected)
        engine.close(tree)
        trees.remove(tree)

    for key in range(data.draw(st.integers(2, 6))):
        length, rest = data.draw(st.sampled_from([60, 256, 257, 300])), data.draw(st.sampled_from([[], [9], [8, 9]]))
        trees.append(open_tree(engine, [*SYSTEM[:length], *rest], key=key))
        expand(engine, trees[-1], trees[-1].root, 2)
        run(engine, trees, polls=data.draw(st.integers(0, 30)))
        what = data.draw(st.sampled_from(["pause", "evict", "end", "nothing"]))
        if what == "pause" and not trees[-1].paused:
            engine.pause(trees[-1])
        elif what == "evict":
            engine.kv.prefixes.evict(data.draw(st.integers(1, 20)))
        elif what == "end":
            end(trees[-1])
    for tree in list(trees):
        end(tree)
    assert engine.kv.n_blocks - engine.kv.tree.n_free_blocks == engine.kv.prefixes.n_blocks
    assert engine.kv.free_blocks == engine.kv.n_blocks
