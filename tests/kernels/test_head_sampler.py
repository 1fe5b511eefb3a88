"""The fused sampler against sorting in numpy: same tokens, right frequencies, bits independent of the batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from branchwise import _C
from tolerances import assert_close

from .sampling import Spec, draw, draw_reference, log_softmax_at, survivors, uniforms

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
