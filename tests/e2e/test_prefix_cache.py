"""The cache of prefixes through the public engine: the same bits with and without, in a quarter of the memory, too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import branchwise as bw
from branchwise.engine.kv import KvCache
from branchwise.errors import ConfigError
from branchwise.tree import total_cost
from e2e.test_bundled_pair import facts, facts_and_costs

QUESTIONS = [f"{first}+3*{second}-5+60=?" for first in (12, 34, 56, 78) for second in (4, 5, 6, 7, 8, 9)]
OPTIONS: dict[str, Any] = {"max_tokens": 300, "max_step_tokens": 48}
STRATEGIES: list[tuple[str, dict[str, Any]]] = [("beam", {"n": 4, "expand": 2}), ("weighted_best_of_n", {"n": 3})]
LINE = "12+3*4-5+60=?\n"


@pytest.fixture(scope="module")
def plain() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=256 << 20, prefix_cache=False, **OPTIONS) as engine:
        yield engine


def caches(engine: bw.Engine) -> list[KvCache]:
    assert engine.judge is not None
    return [engine.policy.kv, engine.judge.kv]


def check_memory(engine: bw.Engine) -> None:
    """Nothing is held but by the caches."""
    for kv in caches(engine):
        kv.tree.check()
        assert kv.n_blocks - kv.tree.n_free_blocks == kv.prefixes.n_blocks == kv.prefixes.n_evictable


@pytest.mark.parametrize(("name", "options"), STRATEGIES)
def test_searches_are_the_same_again_and_in_little_memory(plain: bw.Engine, name: str, options: dict[str, Any]) -> None:
    expected = {each.problem.text: each for each in plain.solve_many(QUESTIONS, name, **options)}
    assert all(len(kv.prefixes) == 0 for kv in caches(plain))
    check_memory(plain)
    with bw.Engine(kv_memory=256 << 20, **OPTIONS) as engine:
        for again in range(2):
            for result in engine.solve_many(QUESTIONS, name, **options):
                assert facts(result) == facts(expected[result.problem.text])
                assert again == 0 or (result.cost.prefill_tokens, result.cost.prm_tokens) == (0, 0)
            check_memory(engine)
        used = sum(kv.prefixes.n_blocks * kv.block_slots * kv.slot_bytes for kv in caches(engine))
        for result in engine.solve_many(QUESTIONS, name, reuse=False, **options):
            assert facts_and_costs(result) == facts_and_costs(expected[result.problem.text])
    with bw.Engine(kv_memory=used // 4, **OPTIONS) as engine:
        for _ in range(2):
            for result in engine.solve_many(QUESTIONS, name, **options):
                assert facts(result)["nodes"] == facts(expected[result.problem.text])["nodes"]
            check_memory(engine)


def grown(engine: bw.Engine, prompt: list[int], **options: Any) -> tuple[object, bw.types.Cost, list[int]]:
    """Steps under a prompt with their scores, what they cost, and the ids of the likeliest one."""
    with engine.open(prompt, branches=4, seed=3, **options) as tree:
        kids = tree.expand(tree.root, 4, max_tokens=20, score=True, stop="\n")
        best = max(kids, key=lambda kid: (kid.score or 0, kid.index))
        found = [(kid.tokens, kid.logprob, kid.score) for kid in kids]
    return found, total_cost(tree.root), best.tokens


def test_a_loop_that_sends_prompts_that_grow(plain: bw.Engine) -> None:
    """Each prompt is the one before it with one step more: as programs do that know no trees."""
    with bw.Engine(kv_memory=64 << 20, **OPTIONS) as engine:
        prompt = engine.policy.tokenizer.encode(LINE * 20)
        for turn in range(8):
            found, cost, step = grown(engine, prompt)
            expected, whole, _ = grown(plain, prompt)
            assert found == expected
            assert cost.prefill_tokens == whole.prefill_tokens - 256 * (turn > 0)
            prompt = [*prompt, *step]
        check_memory(engine)
        assert grown(engine, prompt, reuse=False)[1].cached_tokens == 0


@dataclass
class Resent:
    """What a loop came to: the texts of every step, prompt tokens fed after the first one, and those that were new."""

    texts: list[list[str]] = field(default_factory=list)
    fed: int = 0
    new: int = 0


def resend(engine: bw.Engine, prompts: list[str], copies: int) -> Resent:
    """A beam search of 12 steps as programs do it that know no trees: all that was written is sent at every step."""
    found = Resent()
    beams = dict.fromkeys(prompts, 0)  # and the tokens of what each goes on from
    for step in range(12):
        sent = [beam for beam in beams for _ in range(copies)]
        done = engine.complete(sent, temperature=1.0, max_tokens=24, stop="\n")
        if step:
            found.fed += sum(each.cost.prefill_tokens for each in done)
            found.new += sum(len(each.prompt) for each in done[::copies]) - sum(beams.values())
        for each in done[::copies]:
            assert each.cost.prefill_tokens + each.cost.cached_tokens == len(each.prompt)
        found.texts.append([each.samples[0].text for each in done])
        grown = {beam + each.samples[0].text + "\n": each for beam, each in zip(sent, done, strict=True)}
        best = sorted(grown, key=lambda beam: -grown[beam].samples[0].logprob)[: len(prompts)]
        beams = {beam: len(grown[beam].prompt) for beam in best}
    engine.policy.kv.tree.check()
    assert engine.policy.kv.free_blocks == engine.policy.kv.n_blocks
    return found


def resent_in_little_memory(prompts: list[str], copies: int, **options: Any) -> None:
    """What is new is fed, and a block of each branch; in a quarter of what is kept then, it is right all the same."""
    with bw.Engine(prefix_cache=False, **options) as engine:
        expected = resend(engine, prompts, copies)
    with bw.Engine(**options) as engine:
        found = resend(engine, prompts, copies)
        models = [model for model in (engine.policy, engine.judge) if model is not None]
        kept = engine.policy.kv.prefixes.n_blocks * sum(each.kv.block_slots * each.kv.slot_bytes for each in models)
        assert found.fed <= 1.1 * found.new + engine.policy.kv.block_slots * len(prompts) * 11
    assert found.texts == expected.texts
    with bw.Engine(**options | {"kv_memory": kept // 4}) as engine:
        again = resend(engine, prompts, copies)
    assert again.texts == expected.texts
    assert found.fed < again.fed <= expected.fed
    print(f"fed {found.fed}, in a quarter {again.fed}, without {expected.fed}; new {found.new}; kept {kept >> 20} MiB")


def test_completions_that_send_everything_again_feed_what_is_new() -> None:
    resent_in_little_memory([f"{LINE}{number}+3=" for number in range(4)], 4, kv_memory=64 << 20, **OPTIONS)


@pytest.mark.model
@pytest.mark.slow
def test_a_real_model_is_fed_what_is_new(models_dir: Path) -> None:
    path = models_dir / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    prompts = [
        f"<|im_start|>user\nA pen costs {price} dollars and a book costs {3 * price} dollars. How much do two pens and "
        "five books cost?<|im_end|>\n<|im_start|>assistant\n"
        for price in (2, 3, 4, 7)
    ]
    resent_in_little_memory(prompts, 2, policy=path, dtype="float32", kv_memory=128 << 20)


def test_a_completion_again_is_what_it_was(plain: bw.Engine) -> None:
    with bw.Engine(kv_memory=64 << 20, **OPTIONS) as engine:
        first, second, third = (
            engine.complete(LINE, seed=5, reuse=reuse, max_tokens=20)[0] for reuse in (True, True, False)
        )
        texts = [sample.text for each in (first, second, third) for sample in each.samples]
        assert texts == [plain.complete(LINE, seed=5, max_tokens=20)[0].samples[0].text] * 3
        costs = [(each.cost.prefill_tokens, each.cost.cached_tokens) for each in (first, second, third)]
        length = len(first.prompt)
        assert costs == [(length, 0), (0, length), (length, 0)]


def test_wrong_options_are_refused(plain: bw.Engine) -> None:
    with pytest.raises(ConfigError, match="prefix_cache=1: expected True or False"):
        bw.Engine(prefix_cache=1)
    with pytest.raises(ConfigError, match="reuse='no': expected True or False"):
        plain.solve(QUESTIONS[0], reuse="no")
    with pytest.raises(ConfigError, match="reuse=1: expected True or False"):
        plain.complete(LINE, reuse=1)
    with pytest.raises(ConfigError, match="reuse=None"):
        plain.open(QUESTIONS[0], reuse=None)  # type: ignore[arg-type]
