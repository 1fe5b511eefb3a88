"""Stops and caps of completions against a slow reading of their streams, one token after another."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch

from branchwise.completions import Completion, Sample
from branchwise.engine.engine import StepEngine
from branchwise.engine.kv import KvCache
from branchwise.engine.sampler import Draw, DrawnToken
from branchwise.pair.pair import ModelPair
from branchwise.search.completion import OneCompletion, Wanted
from branchwise.search.service import Service
from branchwise.types import Endings, Sampling, StepOptions
from checkpoints import random_checkpoint
from model_tools import cpu_decoder
from text.step_tools import Tokens

HALVES = [b"\xc3", b"\xa9", b"\xe2\x82", b"\xac"]  # of two characters
PIECES = [
    b"", b"", b"a", b"b", b"c", b"ab", b"ba", b"aab", b"bb", b"\n", b"\n\n", b" ", b" a", b";", b"a;b;", "é".encode(),
    b"x\xc3", *HALVES, "€".encode(),
]  # fmt: skip
EOS = frozenset({0, 1})
LETTERS = [*"aabbaabbc", "\n", " ", ";", "é", "€", "bb;"]
CONTEXT = 40


class SeededStreams:
    """In the sampler's place: token k of seed s is a hash of both, and the next one where it is banned."""

    prompts: dict[int, int]  # length of the prompt, by seed

    def draw(self, hidden: object, draws: Sequence[Draw]) -> list[DrawnToken]:
        ids = [word(draw.seed, draw.position - self.prompts[draw.seed], draw.banned) for draw in draws]
        return [DrawnToken(id, -1.0, None) for id in ids]


def word(seed: int, place: int, banned: Sequence[int]) -> int:
    """Ends of the sequence are rare, and a and b frequent."""
    drawn = random.Random(seed * 1000 + place).choice([*range(len(PIECES)), *[2, 3, 2, 3, 4] * 4])
    while drawn in banned:
        drawn = (drawn + 1) % len(PIECES)
    return drawn


def slow_sample(seed: int, options: StepOptions, room: int) -> tuple[list[int], str, str, str | int | None]:
    """Tokens, text, finish and what stopped it."""
    endings, tokens, data = options.endings, [], b""
    eos = frozenset() if endings.ignore_eos else EOS
    while True:
        young = len(tokens) < options.min_tokens
        token = word(seed, len(tokens), [*eos, *endings.stop_tokens] if young else [])
        before, data = data, data + PIECES[token]
        tokens.append(token)
        if token in eos:
            return tokens, before.decode(errors="replace"), "eos", None
        if token in endings.stop_tokens:
            kept = data if endings.include_stop else before
            return tokens, kept.decode(errors="replace"), "stop", token
        for end in range(len(before) + 1, len(data) + 1):
            for stop in endings.stops:
                if not young and data[:end].endswith(stop.encode()):
                    begin = end if endings.include_stop else end - len(stop.encode())
                    return tokens, data[:begin].decode(errors="replace"), "stop", stop
        if len(tokens) == min(options.max_tokens, room):
            return tokens, data.decode(errors="replace"), "length", None


@dataclass(frozen=True)
class Case:
    prompt: list[int]
    n: int
    seed: int
    options: StepOptions

    def expected(self) -> list[object]:
        room = CONTEXT - len(self.prompt)
        return [slow_sample(self.seed + i, self.options, room) for i in range(self.n)]


def some_case(number: int, n: int) -> Case:
    source = random.Random(number)
    stops = {"".join(source.choices(LETTERS, k=source.choice([1, 2, 2, 3]))) for _ in range(source.randint(0, 4))}
    most = source.choice([1, 2, 4, 8, 16, 39])
    tokens = tuple(source.choices(range(3, 21), k=number % 3))
    endings = Endings(
        (), tuple(source.sample(sorted(stops), len(stops))), stop_tokens=tokens,
        ignore_eos=source.random() < 0.3, include_stop=source.random() < 0.3,
    )  # fmt: skip
    least = source.choice([0, 0, 0, 1, 2, 4, most, most])
    options = StepOptions(Sampling(1.0), endings, most, min_tokens=min(least, most))
    return Case([7] * source.choice([1, 1, 5, 20, 30, 37, 39]), n, number * n, options)


@pytest.fixture(scope="module")
def service() -> Service[object]:
    model = cpu_decoder(random_checkpoint("llama"), torch.float32)
    tokenizer = Tokens(PIECES)
    tokenizer.eos_ids = EOS
    engine = StepEngine(model, tokenizer, KvCache(model.config, 3000, model.dtype, model.backend), max_rows=200)
    engine.context = CONTEXT
    engine.sampler = SeededStreams()  # type: ignore[assignment]
    return Service(ModelPair(engine, None, instruction=""))


def told(sample: Sample) -> object:
    return sample.tokens, sample.text, sample.finish, sample.stop_reason


@pytest.mark.parametrize("first", range(0, 2500, 500))
def test_samples_equal_a_slow_reading_of_their_streams(service: Service[object], first: int) -> None:
    """10,000 streams in all, 2,500 sets of stops: texts cut exactly, tokens uncut, caps exact."""
    cases = [some_case(number, 4) for number in range(first, first + 500)]
    policy = service.pair.policy
    policy.sampler.prompts = {case.seed + i: len(case.prompt) for case in cases for i in range(case.n)}
    tickets = [
        service.submit(OneCompletion(service, Wanted(case.prompt, case.n, [case.seed], case.options))) for case in cases
    ]
    for case, ticket in zip(cases, tickets, strict=True):
        completion: Completion = ticket.result()
        assert [told(sample) for sample in completion.samples] == case.expected()
        for sample in completion.samples:
            assert sample.cost.generated_tokens == len(sample.tokens)
            assert (sample.cut is not None) == (sample.finish == "length")
    assert policy.idle
    assert policy.kv.free_blocks == policy.kv.n_blocks


def test_what_the_streams_hold() -> None:
    """Ends of every kind, stops across tokens, several at once, and caps in every order."""
    cases = [some_case(number, 4) for number in range(2500)]
    outcomes = [(case, *each) for case in cases for each in case.expected()]
    ends = [(finish, type(reason)) for _, _, _, finish, reason in outcomes]
    for end in (("eos", type(None)), ("length", type(None)), ("stop", str), ("stop", int)):
        assert ends.count(end) > 150
    across = [
        1 for _, tokens, _, _, reason in outcomes
        if isinstance(reason, str) and len(reason.encode()) > len(PIECES[tokens[-1]])
    ]  # fmt: skip
    assert len(across) > 30
    assert sum("\ufffd" in text for _, _, text, _, _ in outcomes) > 300
    young = [len(tokens) for case, tokens, *_ in outcomes if case.options.min_tokens]
    assert len(young) > 2000
