"""The fused sampler against sorting in numpy: same tokens, right frequencies, bits independent of the batch."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from branchwise import _C
from tolerances import assert_close

from .sampling import Penalty, Spec, draw, draw_reference, log_softmax_at, penalise, survivors, uniforms

FILTERS = [
    Spec(temperature=0),
    Spec(),
    Spec(temperature=0.3),
    Spec(temperature=1.7),
    Spec(temperature=0.8, top_p=0.95),
    Spec(temperature=1.3, top_p=0.5),
    Spec(top_p=1e-6),
    Spec(top_p=0.999999),
    Spec(top_k=1),
    Spec(temperature=2.0, top_k=50),
    Spec(temperature=1.5, top_k=3000),
    Spec(top_k=100_000),
    Spec(min_p=0.05),
    Spec(temperature=2.0, min_p=0.2, top_p=0.9),
    Spec(temperature=1.1, top_k=40, top_p=0.8),
    Spec(temperature=1.1, top_k=400, top_p=0.9, min_p=0.01),
]


def with_draws(specs: list[Spec], copies: int) -> list[Spec]:
    """Each spec `copies` times, with its own random numbers."""
    many = [spec for spec in specs for _ in range(copies)]
    return [Spec(i * 7919, 2**63 + i, i, s.temperature, s.top_p, s.top_k, s.min_p) for i, s in enumerate(many)]


def test_philox_matches_the_core() -> None:
    spec = Spec(seed=2**63 + 5, lineage=2**40 + 9, position=17)
    expected = [_C.philox_uniform(spec.seed, spec.lineage, spec.position, word) for word in range(13)]
    assert uniforms(spec, 13).tolist() == expected


@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0])
@pytest.mark.parametrize("vocab_size", [3, 1024, 9001])
def test_tokens(isa: str, dtype: torch.dtype, vocab_size: int, spread: float) -> None:
    torch.manual_seed(vocab_size)
    specs = with_draws(FILTERS, 4)
    logits = (torch.randn(len(specs), vocab_size) * spread).to(dtype)
    tokens, logprobs = draw(logits, specs, tile_words=4096)
    expected = [draw_reference(row, spec) for row, spec in zip(logits.float().numpy(), specs, strict=True)]
    assert tokens == expected
    assert_close("logprob", torch.from_numpy(logprobs), log_softmax_at(logits, tokens))


def test_softcap(isa: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    specs = with_draws([Spec(temperature=0), Spec(), Spec(top_p=0.9)], 8)
    logits = (torch.randn(len(specs), 3000) * 20).to(dtype)
    capped = torch.tanh(logits.double() / 15) * 15
    tokens, logprobs = draw(logits, specs, softcap=15.0)
    assert tokens[8:] == [draw_reference(row, s) for row, s in zip(capped.float().numpy(), specs, strict=True)][8:]
    assert_close("logprob", torch.from_numpy(logprobs), log_softmax_at(capped, tokens))


@pytest.mark.parametrize("spec", [Spec(), Spec(temperature=0.7, top_p=0.8), Spec(top_k=6), Spec(min_p=0.1)])
def test_frequencies(isa: str, spec: Spec) -> None:
    """Chi-square of 20 000 draws against the filtered distribution; nothing outside it is drawn."""
    rows, repeats = 1000, 20
    row = np.random.default_rng(0).normal(size=24).astype(np.float32) * 1.5
    logits = torch.from_numpy(row).repeat(rows, 1)
    counts = np.zeros(24)
    for repeat in range(repeats):
        specs = [
            Spec(9, _C.lineage_child(77, i), repeat, spec.temperature, spec.top_p, spec.top_k, spec.min_p)
            for i in range(rows)
        ]
        counts += np.bincount(draw(logits, specs)[0], minlength=24)
    kept = survivors(row, spec)
    weights = np.exp(row[kept].astype(np.float64) / spec.temperature)
    expected = weights / weights.sum() * rows * repeats
    assert counts.sum() == counts[kept].sum()
    statistic = ((counts[kept] - expected) ** 2 / expected).sum()
    freedom = len(kept) - 1
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)


def test_arg_max_ties_take_the_lowest_word(isa: str, dtype: torch.dtype) -> None:
    logits = torch.zeros(5, 5000, dtype=dtype)
    for row, words in enumerate([[], [4999], [17, 18], [1023, 1024], [3000, 16, 4000]]):
        logits[row, words] = 3
    assert draw(logits, [Spec(temperature=0)] * 5, tile_words=2048)[0] == [0, 4999, 17, 1023, 16]


@pytest.mark.parametrize(
    ("spec", "kept"),
    [(Spec(top_k=7), 7), (Spec(top_k=1500), 1500), (Spec(top_p=0.25), 1250), (Spec(top_p=0.5, top_k=8), 4)],
)
def test_filter_ties_keep_the_lowest_words(isa: str, spec: Spec, kept: int) -> None:
    """With equal logits the kept set is the first words; a row's draw is then the best noise among those."""
    logits = torch.full((32, 5000), 1.5)
    specs = with_draws([spec], 32)
    expected = [int(np.argmax(uniforms(s, kept))) for s in specs]
    assert draw(logits, specs, tile_words=1024)[0] == expected


def test_masked_words_are_never_drawn(isa: str) -> None:
    logits = torch.full((len(FILTERS), 3000), -math.inf)
    logits[:, 2500] = -40.0
    tokens, logprobs = draw(logits, FILTERS)
    assert tokens == [2500] * len(FILTERS)
    assert (logprobs == 0).all()


def test_bits_do_not_depend_on_tiles_batch_or_threads(isa: str) -> None:
    torch.manual_seed(1)
    specs = with_draws(FILTERS, 2)
    logits = torch.randn(len(specs), 20_000) * 2
    tokens, logprobs = draw(logits, specs)
    for tile_words in (1024, 7168):
        other = draw(logits, specs, tile_words)
        assert other[0] == tokens
        assert np.array_equal(other[1], logprobs)
    for row in range(len(specs)):  # one row: threads share its chunks
        for threads in (1, 2):
            torch.set_num_threads(threads)
            token, logprob = draw(logits[row : row + 1], specs[row : row + 1], 8192)
            assert token == tokens[row : row + 1]
            assert logprob[0] == logprobs[row]


def some_penalties(rows: int, vocab_size: int) -> list[Penalty]:
    """All kinds, words at both ends of the vocabulary and of tiles among those seen; some rows have none."""
    rng = np.random.default_rng(rows)
    found = []
    for row in range(rows):
        words = [*rng.integers(0, vocab_size, rng.integers(0, 300)).tolist(), 0, vocab_size - 1, 1023 % vocab_size]
        seen = {word: int(rng.integers(0, 4)) for word in words} if row % 5 else {}
        found.append(Penalty(*rng.choice([[1.3, 0, 0], [0.7, 0.5, 0], [1, 1, 0.3], [2, -1, -0.2]]), seen))
    return found


@pytest.mark.parametrize(("vocab_size", "softcap"), [(3, 0.0), (1024, 0.0), (9001, 0.0), (9001, 15.0)])
def test_penalties(isa: str, dtype: torch.dtype, vocab_size: int, softcap: float) -> None:
    """The words of a slow sampler after penalties; log-probabilities of the model as it is."""
    torch.manual_seed(vocab_size)
    specs = with_draws(FILTERS, 4)
    penalties = some_penalties(len(specs), vocab_size)
    logits = (torch.randn(len(specs), vocab_size) * 3).to(dtype)
    raw = torch.tanh(logits.double() / softcap) * softcap if softcap else logits.double()
    tokens, logprobs = draw(logits, specs, 4096, softcap, penalties)
    expected = [
        draw_reference(penalty.of(row), spec)
        for row, spec, penalty in zip(raw.float().numpy(), specs, penalties, strict=True)
    ]
    if softcap:  # tanh rounds: near ties may go the other way
        assert np.mean(np.array(tokens) == expected) > 0.95
    else:
        assert tokens == expected
        assert tokens != draw(logits, specs, 4096)[0]
    assert_close("logprob", torch.from_numpy(logprobs), log_softmax_at(raw, tokens))


@pytest.mark.parametrize("vocab_size", [3, 1030, 9001])
def test_banned_words_are_as_if_they_were_not_there(isa: str, dtype: torch.dtype, vocab_size: int) -> None:
    """Words at the ends of chunks, a chunk from end to end, all words but one; with and without other penalties."""
    torch.manual_seed(vocab_size)
    specs = with_draws(FILTERS, 4)
    logits = (torch.randn(len(specs), vocab_size) * 3).to(dtype)
    sets = [{0, vocab_size - 1}, {*range(1024)} - {vocab_size // 2}, {*range(vocab_size)} - {1}, {2}]
    penalties = []
    for row in range(len(specs)):
        banned = dict.fromkeys(sets[row % len(sets)] & {*range(vocab_size)}, -1)
        others = Penalty(1.3, 0.5, 0.2, {0: 3, vocab_size // 2: 1, **banned}) if row % 3 else Penalty(seen=banned)
        penalties.append(others)
    tokens, logprobs = draw(logits, specs, 1024, penalties=penalties)
    raw = logits.float().numpy()
    assert tokens == [
        draw_reference(penalty.of(row), spec) for row, spec, penalty in zip(raw, specs, penalties, strict=True)
    ]
    assert all(penalty.seen.get(token, 0) >= 0 for token, penalty in zip(tokens, penalties, strict=True))
    assert_close("logprob", torch.from_numpy(logprobs), log_softmax_at(logits, tokens))


def test_penalties_that_are_off_change_no_bit(isa: str) -> None:
    specs = with_draws(FILTERS, 4)
    torch.manual_seed(2)
    logits = torch.randn(len(specs), 5000) * 2
    plain = draw(logits, specs, 1024)
    for penalties in ([Penalty(seen={7: 0, 4000: 3})] * len(specs), [Penalty(1.5, 1, 1)] * len(specs)):
        tokens, logprobs = draw(logits, specs, 1024, penalties=penalties)
        assert tokens == plain[0]
        assert np.array_equal(logprobs, plain[1])
    again = [spec if row % 2 else None for row, spec in enumerate(some_penalties(len(specs), 5000))]
    mixed = [penalty or Penalty() for penalty in again]
    tokens, logprobs = draw(logits, specs, 1024, penalties=mixed)
    assert tokens[::2] == plain[0][::2]
    assert np.array_equal(logprobs[::2], plain[1][::2])


def test_penalised_bits_do_not_depend_on_tiles_batch_or_threads(isa: str) -> None:
    torch.manual_seed(1)
    specs = with_draws(FILTERS, 1)
    penalties = some_penalties(len(specs), 20_000)
    logits = torch.randn(len(specs), 20_000) * 2
    tokens, logprobs = draw(logits, specs, penalties=penalties)
    for tile_words in (1024, 7168):
        other = draw(logits, specs, tile_words, penalties=penalties)
        assert other[0] == tokens
        assert np.array_equal(other[1], logprobs)
    for row, threads in itertools.product(range(len(specs)), (1, 2)):
        torch.set_num_threads(threads)
        one = slice(row, row + 1)
        token, logprob = draw(logits[one], specs[one], 8192, penalties=penalties[one])
        assert token == tokens[one]
        assert logprob[0] == logprobs[row]


def test_penalty_mistakes() -> None:
    sampler = _C.HeadSampler(2, 3000)

    def refused(match: str, *, penalties: list[Penalty] | None = None, **changes: list[int]) -> None:
        sampler.begin(*([getattr(Spec(), name)] * 2 for name in vars(Spec())))
        given = {"repetition": [1, 1], "presence": [0, 0], "frequency": [0, 0], "begins": [0, 1, 2]}
        with pytest.raises(ValueError, match=match):
            sampler.penalise(**{**given, "words": [5, 6], "counts": [0, 1], **changes})

    refused("repetition is 0", repetition=[1, 0])
    refused("presence is nan", presence=[math.nan, 0])
    refused("word 3000", words=[5, 3000])
    refused("word -1", words=[-1, 5])
    refused(r"word 5 \(seen 1 times\) after word 6", words=[6, 5], begins=[0, 2, 2])
    refused("word 5 .* after word 5", words=[5, 5], begins=[0, 2, 2])
    refused("seen -2 times", counts=[0, -2])
    refused("row 1 has words 1 to 3 of 2", begins=[0, 1, 3])
    refused("row 0 has words 2 to 1", begins=[2, 1, 2])
    refused("begins has 1 axes and 2 values, expected 3", begins=[0, 2])
    refused("counts has 1 axes and 1 values, expected 2", counts=[1])
    refused("frequency has 1 axes and 3 values, expected 2", frequency=[0, 0, 0])
    sampler.tile(torch.zeros(2, 3000), 0)
    with pytest.raises(ValueError, match="penalise was not called between begin and the first tile"):
        penalise(sampler, [Penalty()] * 2)


def test_sampler_can_be_reused() -> None:
    sampler = _C.HeadSampler(4, 2048)
    logits = torch.randn(4, 2048)
    first = None
    for spec in (Spec(top_k=20), Spec(), Spec(top_k=20)):
        sampler.begin(*([getattr(spec, name)] * 4 for name in vars(spec)))
        sampler.tile(logits, 0)
        tokens = sampler.finish()[0].tolist()
        first = first or tokens
    assert tokens == first


def test_mistakes() -> None:
    sampler = _C.HeadSampler(2, 3000)
    logits = torch.zeros(2, 3000)

    def begin(**changes: float) -> None:
        spec = Spec(**changes)
        sampler.begin(*([getattr(spec, name)] * 2 for name in vars(spec)))

    with pytest.raises(ValueError, match="tile was called before begin"):
        sampler.tile(logits, 0)
    begin()
    with pytest.raises(ValueError, match="starts at word 1024, expected 0"):
        sampler.tile(logits, 1024)
    with pytest.raises(ValueError, match="a multiple of 1024 words"):
        sampler.tile(logits[:, :1000].contiguous(), 0)
    with pytest.raises(ValueError, match="finish was called after 0 of 3000 words"):
        sampler.finish()
    with pytest.raises(ValueError, match=r"logits has shape \[3, 3000\]"):
        sampler.tile(torch.zeros(3, 3000), 0)
    with pytest.raises(ValueError, match="temperature is -1"):
        begin(temperature=-1)
    with pytest.raises(ValueError, match="top_p is 0"):
        begin(top_p=0)
    with pytest.raises(ValueError, match="min_p is 2"):
        begin(min_p=2)
    with pytest.raises(ValueError, match="3 rows given to a sampler made for 2"):
        sampler.begin(*([1] * 3 for _ in range(7)))
    with pytest.raises(ValueError, match="lineages has 1 axes and 1 values, expected one value for each of 2 rows"):
        sampler.begin([1, 1], [1], [1, 1], [1, 1], [1, 1], [1, 1], [1, 1])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("spec", [Spec(temperature=0), Spec(), Spec(top_p=0.9)])
def test_damaged_logits(isa: str, value: float, spec: Spec) -> None:
    logits = torch.zeros(2, 2000)
    logits[1, 1500] = value
    tokens, logprobs = draw(logits, [spec] * 2)
    assert tokens[0] >= 0
    assert tokens[1] == -1
    assert np.isnan(logprobs).tolist() == [False, True]
