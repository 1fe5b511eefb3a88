"""Completions on the bundled policy: seeds, prompts of every kind, stops, caps, and what cannot work."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import branchwise as bw
from branchwise.completions import Completion, Sample

PROMPT = "12+3*4-5+60=?\n\n"
OTHERS = ["7*8+5-20=?\n\n", "(31+4)*2-9=?\n\n"]


@pytest.fixture(scope="module")
def engine() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=64 << 20, max_tokens=300, prefix_cache=False) as made:
        yield made
        assert made.policy.kv.free_blocks == made.policy.kv.n_blocks


def told(sample: Sample) -> tuple[object, ...]:
    return sample.text, sample.tokens, sample.logprob, sample.finish, sample.stop_reason


def all_told(completions: list[Completion]) -> list[list[tuple[object, ...]]]:
    return [[told(sample) for sample in each.samples] for each in completions]


# --- seeds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 2])
def test_sample_i_is_that_of_seed_plus_i(engine: bw.Engine, seed: int) -> None:
    (whole,) = engine.complete(PROMPT, n=4, seed=seed, temperature=1.2)
    assert len({told(sample) for sample in map(_hashable, whole.samples)}) > 1
    for i, sample in enumerate(whole.samples):
        (alone,) = engine.complete(PROMPT, seed=(seed + i) % 2**64, temperature=1.2)
        assert told(alone.samples[0]) == told(sample)


def _hashable(sample: Sample) -> Sample:
    return Sample(sample.text, tuple(sample.tokens), sample.logprob, sample.finish)  # type: ignore[arg-type]


def test_a_call_without_a_seed_draws_anew_and_says_how() -> None:
    def calls(engine: bw.Engine) -> list[Completion]:
        return [each for _ in range(2) for each in engine.complete([PROMPT, OTHERS[0], PROMPT], n=2, temperature=1.5)]

    with (
        bw.Engine(max_tokens=40) as first,
        bw.Engine(max_tokens=40) as second,
        bw.Engine(max_tokens=40, seed=1) as third,
    ):
        found = calls(first)
        assert all_told(found) == all_told(calls(second))  # the same calls of an engine of the same seed
        assert all_told(found) != all_told(calls(third))
        assert len({each.seed for each in found}) == 6
        texts = {sample.text for each in (found[0], found[2], found[3], found[5]) for sample in each.samples}
        assert len(texts) > 5  # eight samples of one prompt
        for each in found:
            (again,) = second.complete([each.prompt], n=2, temperature=1.5, seed=each.seed)
            assert all_told([again]) == all_told([each])


def test_one_seed_for_different_prompts_draws_differently(engine: bw.Engine) -> None:
    """Equal prompts of one seed are equal samples, and computed once."""
    found = engine.complete([OTHERS[0], "7*8+6-20=?\n\n", OTHERS[0]], n=2, seed=3, temperature=1.5, ignore_eos=True)
    assert all_told(found[:1]) == all_told(found[2:])
    assert [sample.repeat for each in found for sample in each.samples] == [False] * 4 + [True] * 2
    assert (found[2].cost.generated_tokens, found[2].cost.prefill_tokens) == (0, 0)
    assert found[0].samples[0].tokens != found[1].samples[0].tokens


def test_equal_prompts_are_fed_once(engine: bw.Engine) -> None:
    prompts = [PROMPT, OTHERS[0], PROMPT, PROMPT]
    found = engine.complete(prompts, n=3)
    assert [each.cost.prefill_tokens for each in found] == [len(found[0].prompt), len(found[1].prompt), 0, 0]
    assert [each.prompt for each in found] == [engine.policy.tokenizer.encode(prompt) for prompt in prompts]
    for each in found:
        assert each.cost.generated_tokens == sum(len(sample.tokens) for sample in each.samples)
        assert not any(sample.repeat for sample in each.samples)


def test_without_chance_one_sample_is_computed(engine: bw.Engine) -> None:
    for greedy in ({"temperature": 0.0}, {"top_k": 1}):
        first, second = engine.complete([PROMPT, PROMPT], n=3, **greedy)
        samples = first.samples + second.samples
        assert len({sample.text for sample in samples}) == 1
        assert [sample.repeat for sample in samples] == [False] + [True] * 5
        assert first.cost.generated_tokens == len(samples[0].tokens)
        assert second.cost.generated_tokens == 0


# --- prompts -------------------------------------------------------------------------------------------------------


def test_prompts_of_every_kind(engine: bw.Engine) -> None:
    ids = engine.policy.tokenizer.encode(PROMPT)
    forms: list[Any] = [
        PROMPT,
        ids,
        tuple(ids),
        np.array(ids),
        [PROMPT],
        [ids],
        (PROMPT,),
        np.array([ids]),
        iter([PROMPT]),
    ]
    for form in forms:
        (found,) = engine.complete(form, seed=1)
        assert found.prompt == ids
        assert all_told([found]) == all_told(engine.complete(PROMPT, seed=1))
    chat = [{"role": "user", "content": "12+3*4-5+60=?"}]
    (asked,), (also,) = engine.complete(chat, seed=1), engine.complete([chat], seed=1)
    assert asked.prompt == also.prompt == engine.policy.tokenizer.encode("<|user|>") or len(asked.prompt) > 5
    assert engine.complete([]) == []
    many = engine.complete([PROMPT, ids, chat], temperature=0)
    assert [each.prompt for each in many] == [ids, ids, asked.prompt]


def test_any_text_is_gone_on_with(engine: bw.Engine) -> None:
    """Behind a cap, and behind the end of the sequence; greedily, in pieces as in one."""
    (whole,) = engine.complete(PROMPT, temperature=0)
    assert whole.samples[0].finish == "eos"
    ids, written = whole.prompt, []
    while len(written) < len(whole.samples[0].tokens):
        (part,) = engine.complete([ids + written], temperature=0, max_tokens=5)
        written += part.samples[0].tokens
    assert written == whole.samples[0].tokens
    (beyond,) = engine.complete([ids + written], max_tokens=3, ignore_eos=True)
    assert (beyond.prompt, len(beyond.samples[0].tokens)) == (ids + written, 3)
    (text,) = engine.complete(PROMPT + whole.samples[0].text[:7], temperature=0)
    assert text.samples[0].text == whole.samples[0].text[7:]


# --- stops and caps ------------------------------------------------------------------------------------------------


def test_blank_lines_end_nothing_and_stops_do(engine: bw.Engine) -> None:
    (whole,) = engine.complete(PROMPT, temperature=0)
    text = whole.samples[0].text
    assert text.count("\n\n") > 1
    for stop in ("\n\n", ["=", "\n\n"], text[0], [text[3:9], "never"]):
        (found,) = engine.complete(PROMPT, temperature=0, stop=stop)
        stops = [stop] if isinstance(stop, str) else stop
        first = min((each for each in stops if each in text), key=lambda each: text.index(each) + len(each))
        (sample,) = found.samples
        assert (sample.finish, sample.stop_reason, sample.text) == ("stop", first, text[: text.index(first)])
        assert engine.policy.tokenizer.decode(sample.tokens) == text[: text.index(first) + len(first)]
        (found,) = engine.complete(PROMPT, temperature=0, stop=stop, include_stop=True)
        assert found.samples[0].text == text[: text.index(first) + len(first)]
        assert found.samples[0].stop_reason == first


def test_no_stop_means_the_engines_and_an_empty_list_none() -> None:
    with bw.Engine(max_tokens=40, stop="=") as engine:
        found = [engine.complete(PROMPT, temperature=0, stop=stop)[0].samples[0] for stop in (None, [], "\n\n")]
    assert [sample.stop_reason for sample in found] == ["=", None, "\n\n"]
    assert "=" in found[1].text


def test_tokens_that_stop(engine: bw.Engine) -> None:
    (whole,) = engine.complete(PROMPT, temperature=0)
    tokens = whole.samples[0].tokens
    at = tokens.index(tokens[4])
    for include in (False, True):
        (found,) = engine.complete(PROMPT, temperature=0, stop_token_ids=[tokens[4], 99], include_stop=include)
        (sample,) = found.samples
        assert (sample.finish, sample.stop_reason, sample.tokens) == ("stop", tokens[4], tokens[: at + 1])
        assert sample.text == engine.policy.tokenizer.decode(tokens[: at + include])


def test_the_end_may_be_ignored_and_comes_no_earlier_than_it_may(engine: bw.Engine) -> None:
    (end,) = engine.policy.tokenizer.eos_ids
    (whole,) = engine.complete(PROMPT, temperature=0)
    length = len(whole.samples[0].tokens)
    (more,) = engine.complete(PROMPT, temperature=0, ignore_eos=True, max_tokens=length + 9)
    assert more.samples[0].tokens[:length] == whole.samples[0].tokens
    assert (len(more.samples[0].tokens), more.samples[0].finish, more.samples[0].cut) == (
        length + 9,
        "length",
        "tokens",
    )
    (later,) = engine.complete(PROMPT, n=4, min_tokens=length + 4, max_tokens=length + 20)
    for sample in later.samples:
        assert end not in sample.tokens[: length + 4]
        assert len(sample.tokens) >= length + 4
    (stopped,) = engine.complete(PROMPT, n=8, stop_token_ids=[24, 36], min_tokens=6, temperature=2.0)
    for sample in stopped.samples:
        assert not {24, 36, end} & set(sample.tokens[:6])


def test_a_prompt_that_fills_the_context_but_for_one_token(engine: bw.Engine) -> None:
    context = engine.policy.context
    for room in (1, 2, 5):
        (found,) = engine.complete([[5] * (context - room)], ignore_eos=True)
        assert (len(found.samples[0].tokens), found.samples[0].cut) == (room, "context")
    with pytest.raises(bw.InputError, match=f"the prompt has {context} tokens, the model's context is {context}"):
        engine.complete([[5] * context])


def test_how_sure_the_policy_was_is_told_and_changes_nothing(engine: bw.Engine) -> None:
    """Its confidence is that of the likeliest words, which the logits' softmax gives as well."""
    (plain,) = engine.complete(PROMPT, n=3, seed=2, logprobs=5)
    (sure,) = engine.complete(PROMPT, n=3, seed=2, confidence_top=5, confidence_window=4)
    for one, other in zip(plain.samples, sure.samples, strict=True):
        assert (one.tokens, one.confidence) == (other.tokens, None)
        assert one.logprobs is not None
        assert other.confidence is not None
        values = [-sum(number for _, number in each.top) / 5 for each in one.logprobs]
        groups = [sum(values[i : i + 4]) / 4 for i in range(len(values) - 3)]
        assert other.confidence.tokens == len(values)
        assert other.confidence.mean == pytest.approx(sum(values) / len(values), rel=1e-4)
        assert other.confidence.lowest == pytest.approx(min(groups), rel=1e-4)
    with bw.Engine(max_tokens=8, confidence_top=3) as told:
        assert told.complete(PROMPT)[0].samples[0].confidence is not None


# --- what cannot work ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"best_of": 3}, "completions have no option 'best_of': they have n, seed, stop"),
        ({"logit_bias": {}}, "no option 'logit_bias'"),
        ({"max_token": 3}, "did you mean 'max_tokens'"),
        ({"n": 0}, "n is 0, expected a whole number of at least 1"),
        ({"n": 1.5}, "n is 1.5"),
        ({"stop": ["a", ""]}, "'' ends nothing"),
        ({"stop": 3}, "stop=3: expected a text or a list"),
        ({"stop_token_ids": 5}, "stop_token_ids=5: expected a list"),
        ({"stop_token_ids": [100]}, "100 is no token of the policy, which has the ids 0 to 99"),
        ({"stop_token_ids": [-1]}, "-1 is no token"),
        ({"stop_token_ids": ["a"]}, "'a' is no token"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens=9 is more than max_tokens=8"),
        ({"min_tokens": -1}, "min_tokens=-1"),
        ({"max_tokens": 0}, "max_tokens=0: expected a whole number of at least 1"),
        ({"include_stop": 1}, "include_stop=1: expected True or False"),
        ({"ignore_eos": "no"}, "ignore_eos='no': expected True or False"),
        ({"confidence_top": 33}, "confidence_top=33: expected a whole number of likeliest words from 1 to 32"),
        ({"confidence_top": 5, "confidence_window": 0}, "confidence_window=0: expected a whole number of at least 1"),
        ({"temperature": -1}, "temperature=-1"),
        ({"top_p": 0}, "top_p=0"),
        ({"seed": -1}, "seed=-1"),
        ({"stop_token_ids": list(range(100)), "min_tokens": 1}, "all 100 tokens"),
    ],
)
def test_options_that_cannot_work(engine: bw.Engine, options: dict[str, Any], message: str) -> None:
    with pytest.raises(bw.ConfigError, match=message):
        engine.complete(PROMPT, **options)
    with pytest.raises(bw.ConfigError, match=message):
        engine.submit_completion(PROMPT, **options)


BAD: list[tuple[Any, str]] = [
    ("", "the prompt is empty"),
    ([], "the prompt is empty"),
    ([5, 100], "the prompt's token 1 is 100: .* has the token ids 0 to 99"),
    ([5, -1], "negative token id"),
    ("1" * 600, "the prompt has 600 tokens, the model's context is 512"),
    ([{"role": "user"}], "message 0"),
    (["5", 5], "expected a string, a list of messages or a list of token ids"),
    (None, "the prompt is empty"),
    (b"5", "expected a string, a list of messages or a list of token ids"),
]


@pytest.mark.parametrize(("prompt", "message"), BAD)
def test_a_prompt_that_cannot_work_is_the_error_of_its_own_ticket(engine: bw.Engine, prompt: Any, message: str) -> None:
    (alone,) = engine.complete(PROMPT, n=2, seed=5)
    good, bad, other = (engine.submit_completion(each, n=2, seed=5) for each in (PROMPT, prompt, OTHERS[0]))
    with pytest.raises(bw.InputError, match=message):
        bad.result()
    assert all_told([good.result()]) == all_told([alone])
    assert len(other.result().samples) == 2
    with pytest.raises(bw.InputError, match=f"prompt 1: .*{message}"):
        engine.complete([PROMPT, prompt, OTHERS[0]])


def test_what_is_no_prompt_and_no_list(engine: bw.Engine) -> None:
    with pytest.raises(bw.InputError, match="prompts are 5: expected text, chat messages, token ids, or a list"):
        engine.complete(5)  # type: ignore[arg-type]


def test_one_that_never_fits_harms_nobody(engine: bw.Engine) -> None:
    good, huge = engine.submit_completion(PROMPT, seed=1), engine.submit_completion(PROMPT, n=10**6)
    with pytest.raises(bw.OutOfMemory):
        huge.result()
    assert good.result().samples


def test_await_and_cancel(engine: bw.Engine) -> None:
    async def main() -> None:
        call = asyncio.ensure_future(engine.acomplete([PROMPT, *OTHERS], n=4, ignore_eos=True))
        await asyncio.sleep(0.02)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        found = await engine.acomplete([PROMPT, *OTHERS], n=2, seed=4)
        assert all_told(found) == all_told(engine.complete([PROMPT, *OTHERS], n=2, seed=4))

    asyncio.run(main())
    engine.stop()
    assert engine.policy.idle
    assert engine.policy.kv.free_blocks == engine.policy.kv.n_blocks
