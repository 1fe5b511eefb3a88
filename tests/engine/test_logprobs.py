"""Log-probabilities, ranks and likeliest words against a pass over the whole sequence in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from branchwise._C import lineage_root
from branchwise.backend.cpu.backend import CpuBackend
from branchwise.backend.gpu.sampler import TritonSampler
from branchwise.engine.engine import StepEngine
from branchwise.engine.logprobs import token_logprobs
from branchwise.engine.policy_tree import PolicyTree
from branchwise.engine.sampler import Draw, draw_arrays
from branchwise.models.decoder import Decoder
from branchwise.types import Endings, PromptLogprobs, Sampling, Settings, TokenLogprob
from checkpoints import random_checkpoint
from engine.test_step_engine import SomeTokensStop, make_engine, open_tree, options_of, run_until_idle
from model_tools import all_logits, cpu_decoder

PROMPT = [5, 9, 9, 30, 31, 5, 77, 40, 41, 42, 43]
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def model(request: pytest.FixtureRequest) -> Decoder:
    return cpu_decoder(random_checkpoint(request.param, seed=11), torch.float32)


def reference(logits: torch.Tensor, token: int, most: int) -> TokenLogprob:
    """The slow, obvious way; logits: [words]."""
    logprobs = torch.log_softmax(logits.double(), 0)
    order = sorted(range(len(logits)), key=lambda word: (-float(logits[word]), word))
    rank = 1 + sum(float(each) > float(logits[token]) for each in logits)
    return TokenLogprob(token, float(logprobs[token]), rank, tuple((w, float(logprobs[w])) for w in order[:most]))


def assert_same(given: TokenLogprob, expected: TokenLogprob) -> None:
    assert (given.token, given.rank) == (expected.token, expected.rank)
    assert [word for word, _ in given.top] == [word for word, _ in expected.top]
    for (_, ours), (_, theirs) in zip(given.top, expected.top, strict=True):
        assert ours == pytest.approx(theirs, abs=TOLERANCE)
    assert given.logprob == pytest.approx(expected.logprob, abs=TOLERANCE)


def open_told(engine: StepEngine, prompt: list[int], wish: PromptLogprobs, key: int = 1) -> PolicyTree:
    settings = Settings(Sampling(1.0), max_tokens=60, max_step_tokens=20, seed=5, prompt_logprobs=wish)
    engine.detectors[Endings()] = SomeTokensStop(engine.tokenizer)  # type: ignore[assignment]
    tree = engine.open(prompt, lineage=lineage_root(key), branches=2, paths=2, steps=6, settings=settings)
    assert tree is not None
    return tree


@pytest.mark.parametrize("most", [0, 1, 7])
def test_steps_know_what_the_model_thought_of_their_tokens(model: Decoder, most: int) -> None:
    engine = make_engine(model)
    tree, other = (open_tree(engine, PROMPT, Sampling(1.2, top_k=30), key) for key in (1, 2))
    engine.expand(tree, tree.root, 3, replace(options_of(tree), logprobs=most))
    engine.expand(other, other.root, 3, options_of(other))
    run_until_idle(engine)
    engine.expand(tree, tree.root.children[0], 1, replace(options_of(tree), logprobs=most))
    run_until_idle(engine)
    for node in [*tree.root.children, *tree.root.children[0].children]:
        before = [token for step in node.path[:-1] for token in step.tokens]
        logits = all_logits(model, PROMPT + before + node.tokens)[len(PROMPT) + len(before) - 1 : -1]
        assert node.logprobs is not None
        for given_, row, token in zip(node.logprobs, logits, node.tokens, strict=True):
            assert_same(given_, reference(row, token, most))
        assert sum(each.logprob for each in node.logprobs) == pytest.approx(node.logprob, abs=TOLERANCE)
    assert all(node.logprobs is None for node in other.root.children)


@pytest.mark.parametrize("start", [1, 4, 10])
@pytest.mark.parametrize("prefill_rows", [3, 512])
def test_prompts_know_what_the_model_thinks_of_their_tokens(model: Decoder, start: int, prefill_rows: int) -> None:
    engine = make_engine(model, prefill_rows=prefill_rows)
    tree = open_told(engine, PROMPT, PromptLogprobs(2, start))
    other = open_tree(engine, PROMPT[::-1], Sampling(1.0), 2)
    for each in (tree, other):
        engine.expand(each, each.root, 2, options_of(each))
    run_until_idle(engine)
    logits = all_logits(model, PROMPT)
    assert tree.root.logprobs is not None
    assert len(tree.root.logprobs) == len(PROMPT) - start
    for place, given_ in enumerate(tree.root.logprobs, start):
        assert_same(given_, reference(logits[place - 1], PROMPT[place], 2))
    assert other.root.logprobs is None


def test_asking_changes_no_token_and_nothing_depends_on_company(model: Decoder) -> None:
    def grown(ask: bool, company: int) -> list[object]:
        engine = make_engine(model)
        trees = [open_tree(engine, PROMPT, Sampling(1.0), key) for key in range(1, 2 + company)]
        for each in trees:
            engine.expand(each, each.root, 4, replace(options_of(each), logprobs=3 if ask else None))
        run_until_idle(engine)
        return [(node.tokens, node.logprob, node.logprobs) for node in trees[0].root.children]

    plain = grown(False, 0)
    asked = grown(True, 0)
    assert [each[:2] for each in plain] == [each[:2] for each in asked]  # type: ignore[index]
    assert asked == grown(True, 3)


@given(st.lists(st.sampled_from([-1.5, 0.0, 0.25, 3.0]), min_size=1, max_size=40), st.integers(0, 20), st.data())
def test_equal_words_rank_by_their_number(row: list[float], most: int, data: st.DataObject) -> None:
    class Given:
        @staticmethod
        def logits(hidden: torch.Tensor) -> torch.Tensor:
            return hidden

    token = data.draw(st.integers(0, len(row) - 1))
    logits = torch.tensor([row])
    (given_,) = token_logprobs(Given, logits, [token], most)  # type: ignore[arg-type]
    assert_same(given_, reference(logits[0], token, most))


@pytest.mark.parametrize("softcap", [0.0, 5.0])
def test_logits_are_those_that_tokens_are_drawn_from(softcap: float) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(9000, 64, generator=generator)  # more than a tile
    hidden = torch.randn(3, 64, generator=generator)
    head = CpuBackend().head(lambda begin, end: weight[begin:end], len(weight), None)
    sampler = CpuBackend.sampler(head, len(weight), softcap)
    expected = hidden.double() @ weight.double().T
    if softcap:
        expected = torch.tanh(expected / softcap) * softcap
    for logits in (sampler.logits(hidden), TritonSampler(weight, softcap).logits(hidden)):
        assert (logits - expected).abs().max() <= TOLERANCE
    draws = draw_arrays([Draw(1, key, 0, Sampling(0.0)) for key in range(3)])
    tokens, logprobs, *_ = sampler.draw(hidden, draws)
    assert tokens.tolist() == expected.argmax(1).tolist()
    best = torch.log_softmax(expected, 1).max(1).values
    assert (torch.from_numpy(logprobs) - best).abs().max() <= TOLERANCE
