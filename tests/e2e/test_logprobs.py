"""Log-probabilities of completions, prompts and given continuations, against whole passes and against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import branchwise as bw
from branchwise.types import TokenLogprob
from model_tools import all_logits
from models.test_parity_real import PROMPTS, oracle

TOLERANCE = 1e-4


def assert_told(told: list[TokenLogprob], logits: torch.Tensor, tokens: list[int], most: int) -> None:
    """logits: [tokens, words], before each of them."""
    logprobs = torch.log_softmax(logits.double(), 1)
    assert [each.token for each in told] == tokens
    for each, row, raw in zip(told, logprobs, logits, strict=True):
        assert each.logprob == pytest.approx(float(row[each.token]), abs=TOLERANCE)
        close = int((raw > raw[each.token] + TOLERANCE).sum()) + 1, int((raw > raw[each.token] - TOLERANCE).sum())
        assert close[0] <= each.rank <= max(close)
        assert len(each.top) == most
        best = row.topk(most).values.tolist() if most else []
        assert [value for _, value in each.top] == pytest.approx(best, abs=TOLERANCE)


@pytest.fixture(scope="module")
def engine() -> Any:
    with bw.Engine(dtype="float32", threads=1) as made:
        yield made


@pytest.mark.parametrize("most", [0, 5])
def test_samples_and_prompts(engine: bw.Engine, most: int) -> None:
    prompts = ["12+3*4-5+60=?\n\n", "7*8+5-20=?\n\n", "12+3*4-5+60=?\n\n3*4=12"]
    for completion in engine.complete(prompts, n=2, logprobs=most, prompt_logprobs=most, temperature=1.3, seed=1):
        prompt = completion.prompt
        for sample in completion.samples:
            logits = all_logits(engine.policy.model, prompt + sample.tokens)
            assert sample.logprobs is not None
            assert_told(sample.logprobs, logits[len(prompt) - 1 : -1], sample.tokens, most)
        assert completion.prompt_logprobs is not None
        first, *others = completion.prompt_logprobs
        assert first is None
        assert_told(others, logits[: len(prompt) - 1], prompt[1:], most)  # type: ignore[arg-type]


def test_nobody_is_told_what_was_not_asked_for(engine: bw.Engine) -> None:
    plain, told = (engine.complete("7*8=?\n\n", n=3, seed=4, reuse=False, logprobs=most)[0] for most in (None, 2))
    assert plain.prompt_logprobs is None
    assert all(sample.logprobs is None for sample in plain.samples)
    assert [s.tokens for s in plain.samples] == [s.tokens for s in told.samples]


def test_given_continuations(engine: bw.Engine) -> None:
    context = "12+3*4-5+60=?\n\n"
    (written,) = engine.complete(context, temperature=0.0, max_tokens=8)[0].samples
    tokenizer = engine.policy.tokenizer
    ids = tokenizer.encode(context)
    pairs = [
        (ids, written.tokens),
        (ids, [*written.tokens[:-1], written.tokens[-1] + 1]),
        (context, "3*4=12"),
        ("", "12"),
        (context, "3"),
    ]
    for reuse in (True, False):
        likely = engine.log_likelihoods(pairs, reuse=reuse)
        assert [each.is_greedy for each in likely[:2]] == [True, False]
        assert likely[0].logprob == pytest.approx(written.logprob, abs=TOLERANCE)
        for (_, after), each in zip(pairs[:2], likely, strict=False):
            logits = all_logits(engine.policy.model, [*ids, *after])[len(ids) - 1 : -1]
            expected = torch.log_softmax(logits.double(), 1).gather(1, torch.tensor(after)[:, None]).sum()
            assert each.logprob == pytest.approx(float(expected), abs=TOLERANCE)
            assert each.is_greedy == (logits.argmax(1).tolist() == after)


def test_shared_contexts_are_fed_once() -> None:
    with bw.Engine(dtype="float32", threads=1) as engine:
        context = list(range(20, 40)) * 10
        pairs = [(context, [5, 6]), (context, [7, 8, 9])]
        first = engine.log_likelihoods(pairs)
        again = engine.log_likelihoods(pairs)
        assert [each.logprob for each in again] == pytest.approx([each.logprob for each in first], abs=TOLERANCE)
        cost = engine.complete([*context, 5], max_tokens=1)[0].cost
        assert cost.cached_tokens >= 192


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"logprobs": 21}, "logprobs=21: expected 0 to 20"),
        ({"logprobs": -1}, "logprobs=-1"),
        ({"prompt_logprobs": True}, "prompt_logprobs=True"),
    ],
)
def test_what_cannot_be_told(engine: bw.Engine, options: dict[str, Any], said: str) -> None:
    with pytest.raises(bw.ConfigError, match=said):
        engine.complete("1", **options)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (3, "expected a list of"),
        (["ab"], r"pair 0 is 'ab': expected \(context, continuation\)"),
        ([("a", "b"), ("a", "")], "pair 1: the continuation is empty"),
        ([(3, 4)], "neither a text nor token ids"),
        ([([1], [10**9])], "token"),
        ([([1] * 5000, [2])], "context"),
    ],
)
def test_pairs_that_cannot_be(engine: bw.Engine, pairs: Any, said: str) -> None:
    with pytest.raises(bw.InputError, match=said):
        engine.log_likelihoods(pairs)


@pytest.mark.slow
@pytest.mark.model
def test_a_real_model_equals_transformers(models_dir: Path) -> None:
    path = models_dir / "smollm2-135m-instruct-q4_1.gguf"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    with bw.Engine(path, dtype="float32", kv_memory=1 << 30) as engine:
        found = engine.complete(PROMPTS[:8], logprobs=5, prompt_logprobs=5, max_tokens=12, seed=1)
        pairs = [(prompt, " Paris and more") for prompt in PROMPTS[:8]]
        likely = engine.log_likelihoods(pairs)
    model = oracle(path)
    for completion, likelihood in zip(found, likely, strict=True):
        (sample,) = completion.samples
        prompt, after = completion.prompt, [each.token for each in likelihood.tokens]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + sample.tokens])).logits[0]
            given = model(torch.tensor([prompt + after])).logits[0, len(prompt) - 1 : -1]
        assert_told(completion.prompt_logprobs[1:], logits[: len(prompt) - 1], prompt[1:], 5)  # type: ignore[index, arg-type]
        assert_told(sample.logprobs, logits[len(prompt) - 1 : -1], sample.tokens, 5)  # type: ignore[arg-type]
        expected = torch.log_softmax(given.double(), 1).gather(1, torch.tensor(after)[:, None]).sum()
        assert likelihood.logprob == pytest.approx(float(expected), abs=TOLERANCE * len(after))
        assert likelihood.is_greedy == (given.argmax(1).tolist() == after)
