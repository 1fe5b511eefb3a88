"""Penalties against doing it the slow way: whole sequences, transformers' and vLLM's rules, noise in float64."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from branchwise._C import lineage_root
from branchwise.engine.seen_words import SeenWords
from branchwise.models.decoder import Decoder
from branchwise.types import Node, Sampling
from checkpoints import random_checkpoint
from engine.test_step_engine import grow, make_engine, open_tree, steps_of
from kernels.sampling import Spec, draw_reference
from model_tools import all_logits, cpu_decoder

transformers = pytest.importorskip("transformers", reason="transformers' rule is the oracle of these tests")

PROMPT = [5, 9, 9, 30, 31, 5, 77, 40]
SAMPLINGS = {
    "greedy": Sampling(0.0, repetition_penalty=1.4),
    "repetition": Sampling(1.0, repetition_penalty=1.2),
    "below-1": Sampling(0.9, repetition_penalty=0.8),
    "presence": Sampling(1.0, presence_penalty=0.9),
    "frequency": Sampling(1.1, frequency_penalty=0.7),
    "negative": Sampling(1.0, presence_penalty=-0.5, frequency_penalty=-0.1),
    "all-filtered": Sampling(
        1.3, top_p=0.9, top_k=40, repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2
    ),
    "min-p": Sampling(1.0, min_p=0.1, repetition_penalty=1.1, frequency_penalty=0.3),
}


@pytest.fixture(scope="module")
def model() -> Decoder:
    return cpu_decoder(random_checkpoint("llama", seed=11), torch.float32)


def penalised(logits: torch.Tensor, written: list[int], sampling: Sampling) -> torch.Tensor:
    """transformers' repetition penalty over prompt and output, then vLLM's other two over the output."""
    if sampling.repetition_penalty != 1:
        rule = transformers.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)
        logits = rule(torch.tensor([[*PROMPT, *written]]), logits[None].clone())[0]
    counts = torch.bincount(torch.tensor(written, dtype=torch.int64), minlength=len(logits)).float()
    return logits - sampling.frequency_penalty * counts - sampling.presence_penalty * (counts > 0)


def expected_tokens(model: Decoder, node: Node, sampling: Sampling) -> tuple[list[int], float]:
    """What a step must be, each token from the logits of the whole sequence before it; and its log-probability."""
    assert node.parent is not None
    before = [token for step in node.parent.path for token in step.tokens]
    tokens, total = [], 0.0
    for _ in node.tokens:
        written = before + tokens
        logits = all_logits(model, PROMPT + written)[-1]
        spec = Spec(
            5, node.lineage, len(PROMPT) + len(written), sampling.temperature, sampling.top_p, sampling.top_k,
            sampling.min_p,
        )  # fmt: skip
        tokens.append(draw_reference(penalised(logits, written, sampling).numpy(), spec))
        total += float(torch.log_softmax(logits.double(), 0)[tokens[-1]])
    return tokens, total


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_every_token_is_that_of_the_slow_way(model: Decoder, sampling: Sampling) -> None:
    engine = make_engine(model)
    tree, other = (open_tree(engine, PROMPT, each, key) for key, each in ((1, sampling), (2, Sampling(1.0))))
    grow(engine, [tree, other], width=2, depth=3)
    deepest = max(tree.states, key=lambda node: node.depth)
    assert deepest.depth >= 2
    for node in deepest.path:
        tokens, logprob = expected_tokens(model, node, sampling)
        assert node.tokens == tokens
        assert node.logprob == pytest.approx(logprob, abs=1e-4)
    unpenalised = make_engine(model)
    alone = open_tree(unpenalised, PROMPT, Sampling(1.0), 2)
    grow(unpenalised, [alone], width=2, depth=3)
    assert steps_of(other.root) == steps_of(alone.root)


def test_penalties_change_what_is_drawn(model: Decoder) -> None:
    drawn = []
    for sampling in (Sampling(1.0), Sampling(1.0, repetition_penalty=2.0), Sampling(1.0, frequency_penalty=5.0)):
        engine = make_engine(model)
        tree = open_tree(engine, PROMPT, sampling)
        grow(engine, [tree], width=2, depth=2)
        drawn.append(str(steps_of(tree.root)))
    assert len(set(drawn)) == 3


def test_a_strong_penalty_repeats_nothing(model: Decoder) -> None:
    engine = make_engine(model)
    tree = open_tree(engine, PROMPT, Sampling(0.8, presence_penalty=100.0))
    grow(engine, [tree], width=2, depth=3)
    branches = [[token for step in node.path for token in step.tokens] for node in tree.states]
    assert max(map(len, branches)) > 5
    assert all(len(written) == len(set(written)) for written in branches)


def test_what_was_seen_is_kept_no_longer_than_a_step_grows(model: Decoder) -> None:
    engine = make_engine(model)
    tree = open_tree(engine, PROMPT, Sampling(1.0, repetition_penalty=1.2))
    grow(engine, [tree], width=2, depth=2)
    assert all(state.seen is None for state in tree.states.values())


@given(*[st.lists(st.integers(0, 300), max_size=120)] * 3)
def test_counting_on_is_counting_anew(given_: list[int], written: list[int], more: list[int]) -> None:
    grown, anew = SeenWords(given_, written), SeenWords(given_, written + more)
    for word in more:
        grown.add(word)
    counts = Counter(written + more)
    assert grown.words.tolist() == anew.words.tolist() == sorted({*given_, *counts})
    assert grown.counts.tolist() == anew.counts.tolist() == [counts[word] for word in anew.words.tolist()]
    assert (grown.words.dtype, grown.counts.dtype) == (np.int32, np.int32)


@pytest.mark.parametrize("penalty", [1.1, 1.3, 2.0, 0.9])
def test_greedy_text_equals_that_of_transformers(model: Decoder, penalty: float) -> None:
    """64 tokens of `generate` in fp32."""
    checkpoint = random_checkpoint("llama", seed=11)
    config = transformers.AutoConfig.for_model(**{**checkpoint.config})
    oracle = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    oracle.load_state_dict(checkpoint.tensors, strict=False)
    oracle.tie_weights()
    ids = torch.tensor([PROMPT])
    options = transformers.GenerationConfig(
        max_new_tokens=64, do_sample=False, repetition_penalty=penalty, eos_token_id=None, pad_token_id=0
    )
    with torch.no_grad():
        wanted = oracle.generate(ids, attention_mask=torch.ones_like(ids), generation_config=options)[0, len(PROMPT) :]
    engine = make_engine(model)
    tree = open_tree(engine, PROMPT, Sampling(0.0, repetition_penalty=penalty))
    tree.settings = type(tree.settings)(tree.settings.sampling, max_tokens=64, max_step_tokens=64, seed=5)
    written: list[int] = []
    node = tree.root
    while len(written) < 64:
        engine.expand(tree, node, 1, tree.settings.step())
        while not engine.idle:
            engine.poll()
        (node,) = node.children
        written += node.tokens
        node.finish = "stop"
    assert written[:64] == wanted.tolist()
    assert lineage_root(1) == tree.root.lineage
