"""Confidence and certainty behind the lm_head: against the twin, and against the CPU's sampler."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise import _C
from branchwise_kernels import reference
from branchwise_kernels.lm_head_sample import DrawTensors, HeadWorkspace, lm_head_sample
from branchwise_kernels.sureness import MOST_TOP, SureTensors
from kernels_interp.harness.verify import poisoned, verify
from kernels_interp.test_lm_head_sample import MIXED, draws_of, filtered, fresh, penalties_of

ITERATIONS = 3


def asking(draws: DrawTensors, top: list[int], iteration: int = 1) -> DrawTensors:
    """The same draws by rows that ask, in the middle of a burst."""
    sure = SureTensors(
        torch.tensor(top, dtype=torch.int32),
        poisoned(ITERATIONS, len(top), 2, dtype=torch.float32),
        torch.tensor([iteration], dtype=torch.int32),
    )
    return replace(draws, sure=sure)


def run(hidden, weight, draws, softcap=0.0):
    """(tokens, logprobs, found [rows, 2]); nothing but the own iteration is written."""
    rows, words = len(hidden), len(weight)
    penalised = draws.penalties is not None
    space = HeadWorkspace.empty(rows, words, filtered(draws), torch.device("cpu"), penalised=penalised, sure=True)
    for scratch in (space.raw, space.stats, space.logits):
        scratch.fill_(float("nan"))
    space.words.fill_(2**30)
    draws = asking(fresh(draws) if penalised else draws, draws.sure.top.tolist())
    tokens, logprobs = poisoned(rows, dtype=torch.int32), poisoned(rows, dtype=torch.float32)
    lm_head_sample(hidden, weight, draws, softcap, space, tokens, logprobs, filtered(draws))
    assert draws.sure.found[[0, 2]].isnan().all()
    return tokens, logprobs, draws.sure.found[1]


def wanted(hidden, weight, draws, softcap=0.0):
    draws = asking(fresh(draws) if draws.penalties is not None else draws, draws.sure.top.tolist())
    tokens, logprobs = torch.zeros(len(hidden), dtype=torch.int64), torch.zeros(len(hidden), dtype=torch.float64)
    draws = replace(draws, sure=replace(draws.sure, found=draws.sure.found.double()))
    reference.lm_head_sample(hidden, weight, draws, softcap, None, tokens, logprobs, filtered(draws))
    return [tokens, logprobs, draws.sure.found[1]]


@pytest.mark.parametrize(
    ("words", "dim", "softcap", "filters", "penalised"),
    [
        (300, 96, 0.0, False, False),
        (300, 64, 10.0, True, True),
        (1500, 32, 0.0, False, True),
        (20, 16, 0.0, True, False),
    ],
)
def test_equals_the_twin(rng, words, dim, softcap, filters, penalised):
    rows = MIXED if filters else [{"temperature": 0.0}, {}, {"temperature": 0.6}]
    hidden, weight = torch.randn(len(rows), dim, generator=rng), torch.randn(words, dim, generator=rng) * 2 * dim**-0.5
    draws = draws_of(rows)
    if penalised:
        draws = replace(draws, penalties=penalties_of(len(rows), words, rng))
    draws = asking(draws, [(20, 1, MOST_TOP, 5)[row % 4] for row in range(len(rows))])
    right = wanted(hidden, weight, draws, softcap)
    verify(lambda: run(hidden, weight, draws, softcap), right, torch.float32)
    found = run(hidden, weight, draws, softcap)[2]
    assert (found - right[2]).abs().max() <= 1e-5


def test_half_precision(dtype, rng):
    hidden, weight = torch.randn(3, 64, generator=rng).to(dtype), torch.randn(500, 64, generator=rng).to(dtype) * 0.25
    draws = asking(draws_of([{}] * 3), [20, 0, 7])
    tokens, _, found = run(hidden, weight, draws)
    right = wanted(hidden, weight, draws)
    assert torch.equal(tokens.long(), right[0])
    assert found[1].isnan().all()  # does not ask
    assert (found[[0, 2]] - right[2][[0, 2]]).abs().max() <= 2e-4


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, MOST_TOP), st.sampled_from([1, 5, 30, 200]), st.booleans())
def test_the_numbers_of_the_cpu(seed, top, words, ruled_out):
    """Identity weights make the logits exact: ties, words that are ruled out, fewer words than asked for."""
    rng = torch.Generator().manual_seed(seed)
    logits = (torch.randn(2, words, generator=rng) * 6).round() / 2
    if ruled_out and words > 1:
        logits[0, torch.randperm(words, generator=rng)[: words // 2]] = -1e30  # infinite ones times 0 would be NaN
        logits[logits == -1e30] = -60000.0
    draws = asking(draws_of([{}, {}], seed), [top, top])
    tokens, _, found = run(logits, torch.eye(words), draws)
    sampler = _C.HeadSampler(2, words)
    sampler.begin(
        draws.seed.numpy().view(np.uint64), draws.lineage.numpy().view(np.uint64), draws.position.numpy(),
        draws.temperature.numpy(), draws.top_p.numpy(), draws.top_k.numpy(), draws.min_p.numpy(),
    )  # fmt: skip
    sampler.ask_sureness([top, top])
    sampler.tile(logits, 0)
    assert tokens.tolist() == sampler.finish()[0].tolist()
    assert np.allclose(found.numpy(), sampler.sureness(), atol=1e-5, rtol=1e-6)


def test_words_that_are_ruled_out_do_not_count(rng):
    """The product makes -inf where a weight overflows; a tile of such words alone is no trouble for the others."""
    words, dim = 300, 16
    hidden, weight = torch.ones(1, dim), torch.randn(words, dim, generator=rng)
    weight[::3] = -3e38
    draws = asking(draws_of([{}]), [20])
    *_, found = run(hidden, weight, draws)
    z = (hidden @ weight.T).double()[0]
    z = z[z > -math.inf]
    assert len(z) == 200
    total = float(z.logsumexp(0))
    right = [total - float(z.topk(20).values.mean()), total - float(z.mean()) - math.log(len(z))]
    assert found[0].tolist() == pytest.approx(right, abs=1e-5)


def test_damaged_rows_have_none():
    hidden = torch.tensor([[float("nan"), 0.0], [1.0, 2.0]])
    with np.errstate(invalid="ignore", divide="ignore"):
        *_, found = run(hidden, torch.eye(2), asking(draws_of([{}, {}]), [20, 20]))
    assert found[0].isnan().all()
    assert found[1].isfinite().all()
