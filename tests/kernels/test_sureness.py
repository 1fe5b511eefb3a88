"""Confidence and certainty of the fused sampler against float64; no drawn token changes with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from branchwise import _C

from .sampling import Penalty, Spec, draw, penalise
from .test_head_sampler import FILTERS, some_penalties, with_draws

BAR = 1e-5


def surely(
    logits: Tensor, specs: list[Spec], top: list[int], tile_words: int = 0, softcap: float = 0.0,
    penalties: list[Penalty] | None = None,
) -> tuple[list[int], NDArray[np.float32], NDArray[np.float32]]:  # fmt: skip
    """Tokens, log-probabilities and [rows, 2] confidence and certainty."""
    rows, words = logits.shape
    sampler = _C.HeadSampler(rows, words)
    names = ("seed", "lineage", "position", "temperature", "top_p", "top_k", "min_p")
    sampler.begin(*(np.array([getattr(spec, name) for spec in specs]) for name in names))
    sampler.ask_sureness(top)
    if penalties is not None:
        penalise(sampler, penalties)
    for first in range(0, words, tile_words or words):
        sampler.tile(logits[:, first : first + (tile_words or words)].contiguous(), first, softcap)
    tokens, logprobs = sampler.finish()
    return tokens.tolist(), logprobs, sampler.sureness()


def wanted(row: Tensor, top: int) -> tuple[float, float]:
    """Both numbers of one row of logits, by sorting, in float64; logits of -inf do not count."""
    z = row.double()
    z = z[z > -math.inf].sort(descending=True).values
    total = float(z.logsumexp(0))
    return total - float(z[:top].mean()), total - float(z.mean()) - math.log(len(z))


def check(sure: NDArray[np.float32], logits: Tensor, top: list[int]) -> None:
    for found, row, k in zip(sure, logits, top, strict=True):
        assert np.allclose(found, wanted(row, k), atol=BAR, rtol=1e-6)


@pytest.mark.parametrize("spread", [0.01, 2.0, 8.0])
@pytest.mark.parametrize("words", [3, 50, 1024, 1500, 40_000])
def test_equals_float64(isa: str, dtype: torch.dtype, words: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(words)
    specs = with_draws(FILTERS, 1)
    logits = (torch.randn(len(specs), words, generator=generator) * spread - 4).to(dtype)
    top = [(1, 5, 20, 64)[row % 4] for row in range(len(specs))]
    tokens, logprobs, sure = surely(logits, specs, top, 4096)
    check(sure, logits, top)
    plain = draw(logits, specs, 4096)
    assert tokens == plain[0]
    assert np.array_equal(logprobs, plain[1])


def test_rows_that_do_not_ask(isa: str) -> None:
    logits = torch.randn(3, 3000, generator=torch.Generator().manual_seed(1))
    *_, sure = surely(logits, [Spec()] * 3, [0, 20, 0])
    assert np.isnan(sure[[0, 2]]).all()
    check(sure[1:2], logits[1:2], [20])


def test_softcap_counts_and_penalties_do_not(isa: str) -> None:
    logits = torch.randn(6, 5000, generator=torch.Generator().manual_seed(2)) * 20
    specs, top = [Spec()] * 6, [20] * 6
    *_, sure = surely(logits, specs, top, softcap=15.0, penalties=some_penalties(6, 5000))
    check(sure, torch.tanh(logits.double() / 15) * 15, top)


def test_equal_logits_are_as_unsure_as_can_be(isa: str) -> None:
    *_, sure = surely(torch.full((2, 7000), 3.25), [Spec()] * 2, [20, 20])
    assert np.allclose(sure, [[math.log(7000), 0.0]] * 2, atol=BAR)


def test_a_constant_changes_nothing(isa: str) -> None:
    logits = torch.randn(1, 9000, generator=torch.Generator().manual_seed(3)).double()
    (near,), (far,) = (surely((logits + shift).float(), [Spec()], [20])[2] for shift in (0, 40))
    assert np.allclose(near, far, atol=3e-5)


@pytest.mark.parametrize("left", [1, 7, 3000])
def test_words_that_are_ruled_out_do_not_count(isa: str, left: int) -> None:
    logits = torch.full((1, 9000), -math.inf)
    words = torch.randperm(9000, generator=torch.Generator().manual_seed(left))[:left]
    logits[0, words] = torch.randn(left, generator=torch.Generator().manual_seed(4))
    *_, sure = surely(logits, [Spec()], [20], 2048)
    assert np.isfinite(sure).all()
    check(sure, logits, [20])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_damaged_rows_have_none(isa: str, bad: float) -> None:
    logits = torch.zeros(2, 2000)
    logits[1, 700 if bad != -math.inf else slice(None)] = bad
    *_, sure = surely(logits, [Spec()] * 2, [20, 20])
    assert np.isfinite(sure[0]).all()
    assert np.isnan(sure[1]).all()


def test_bits_do_not_depend_on_tiles_batch_or_threads(isa: str) -> None:
    generator = torch.Generator().manual_seed(5)
    specs, top = with_draws(FILTERS, 2), [20] * (2 * len(FILTERS))
    logits = torch.randn(len(specs), 20_000, generator=generator).round(decimals=1)  # many ties
    *_, sure = surely(logits, specs, top)
    for tile_words in (1024, 7168):
        assert np.array_equal(surely(logits, specs, top, tile_words)[2], sure)
    before = torch.get_num_threads()
    try:
        for row in range(0, len(specs), 5):  # one row: threads share its chunks
            for threads in (1, 2):
                torch.set_num_threads(threads)
                *_, alone = surely(logits[row : row + 1], specs[row : row + 1], top[:1], 8192)
                assert np.array_equal(alone[0], sure[row])
    finally:
        torch.set_num_threads(before)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([-3.0, -0.5, 0.0, 1.0, 1.5, 9.0, -math.inf]), min_size=1, max_size=90),
    st.integers(1, 100),
)
def test_any_row(row: list[float], top: int) -> None:
    logits = torch.tensor([row])
    *_, sure = surely(logits, [Spec()], [top])
    if max(row) == -math.inf:
        assert np.isnan(sure).all()
    else:
        check(sure, logits, [top])


def test_wrong_order_and_numbers() -> None:
    sampler = _C.HeadSampler(2, 1000)
    row = np.zeros(2)
    with pytest.raises(ValueError, match="between begin and the first tile"):
        sampler.ask_sureness([20, 20])
    sampler.begin(row, row, row, row + 1, row + 1, row, row)
    with pytest.raises(ValueError, match="1 numbers of words given for 2 rows"):
        sampler.ask_sureness([20])
    with pytest.raises(ValueError, match="top is -1"):
        sampler.ask_sureness([20, -1])
