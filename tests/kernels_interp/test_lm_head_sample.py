"""lm_head and sampling against the twin, and against the CPU's sampler."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise import _C
from branchwise_kernels import reference
from branchwise_kernels.lm_head_sample import NEVER_DRAWN, DrawTensors, HeadWorkspace, PenaltyTensors, lm_head_sample
from kernels.sampling import Penalty, penalise
from kernels_interp.harness.verify import poisoned, verify

F32 = torch.float32
OFF = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}


def draws_of(rows: list[dict[str, float]], seed: int = 3) -> DrawTensors:
    """One row per dict of temperature, top_p, top_k, min_p; seeds and lineages use all 64 bits."""
    rng = np.random.default_rng(seed)
    filled = [OFF | row for row in rows]

    def column(name: str, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([row[name] for row in filled], dtype=dtype)

    return DrawTensors(
        seed=torch.from_numpy(rng.integers(-(2**63), 2**63 - 1, len(rows))),
        lineage=torch.from_numpy(rng.integers(-(2**63), 2**63 - 1, len(rows))),
        position=torch.from_numpy(rng.integers(0, 4000, len(rows), dtype=np.int32)),
        temperature=column("temperature", F32),
        top_p=column("top_p", F32),
        top_k=column("top_k", torch.int32),
        min_p=column("min_p", F32),
    )


def filtered(draws: DrawTensors) -> bool:
    return bool(((draws.top_p < 1) | (draws.top_k > 0) | (draws.min_p > 0)).any())


def sample(hidden, weight, draws, softcap=0.0):
    rows, words = len(hidden), len(weight)
    space = HeadWorkspace.empty(
        rows, words, filtered(draws), torch.device("cpu"), penalised=draws.penalties is not None
    )
    space.raw.fill_(float("nan"))
    space.stats.fill_(float("nan"))
    space.logits.fill_(float("nan"))
    space.words.fill_(2**30)
    tokens, logprobs = poisoned(rows, dtype=torch.int32), poisoned(rows, dtype=F32)
    lm_head_sample(hidden, weight, draws, softcap, space, tokens, logprobs, filtered(draws))
    return tokens, logprobs


def wanted_of(hidden, weight, draws, softcap=0.0):
    tokens, logprobs = torch.zeros(len(hidden), dtype=torch.int64), torch.zeros(len(hidden), dtype=torch.float64)
    reference.lm_head_sample(hidden, weight, draws, softcap, None, tokens, logprobs, filtered(draws))
    return [tokens, logprobs]


MIXED = [
    {"temperature": 0.0},
    {},
    {"temperature": 0.8, "top_p": 0.95},
    {"temperature": 1.5, "top_k": 5},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.5},
    {"min_p": 0.2},
    {"temperature": 0.0, "top_k": 3},
    {"temperature": 2.0, "top_p": 0.99, "min_p": 0.05},
]


@pytest.mark.parametrize(("words", "dim", "softcap"), [(300, 96, 0.0), (1000, 64, 10.0), (129, 40, 0.0)])
@pytest.mark.parametrize("filters", [False, True])
def test_draws_equal_the_twin(dtype, rng, words, dim, softcap, filters):
    rows = MIXED if filters else [{"temperature": 0.0}, {}, {"temperature": 0.6}]
    hidden, weight = torch.randn(len(rows), dim, generator=rng), torch.randn(words, dim, generator=rng) * 2 * dim**-0.5
    hidden, weight, draws = hidden.to(dtype), weight.to(dtype), draws_of(rows)
    run = lambda: sample(hidden, weight, draws, softcap)  # noqa: E731
    verify(run, wanted_of(hidden, weight, draws, softcap), dtype)


def test_many_rows_use_the_large_tile(rng):
    rows = (MIXED * 9)[:70]
    hidden, weight = torch.randn(70, 32, generator=rng), torch.randn(150, 32, generator=rng)
    draws = draws_of(rows)
    verify(lambda: sample(hidden, weight, draws), wanted_of(hidden, weight, draws), F32)


def cpu_sampler(
    logits: torch.Tensor, draws: DrawTensors, softcap: float = 0.0, penalties: list[Penalty] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    rows, words = logits.shape
    sampler = _C.HeadSampler(rows, words)
    sampler.begin(
        draws.seed.numpy().view(np.uint64),
        draws.lineage.numpy().view(np.uint64),
        draws.position.numpy(),
        draws.temperature.numpy(),
        draws.top_p.numpy(),
        draws.top_k.numpy(),
        draws.min_p.numpy(),
    )
    if penalties is not None:
        penalise(sampler, penalties)
    sampler.tile(logits, 0, softcap)
    return sampler.finish()


def penalties_of(rows: int, words: int, rng: torch.Generator) -> PenaltyTensors:
    """All kinds, a quarter of the words seen, some never drawn, the last row without any; the last word has a tile of
    its own where there are 129."""
    kinds = torch.tensor([[1.3, 0.0, 0.0], [0.7, 0.5, 0.0], [1.0, 1.0, 0.25], [2.0, -1.0, -0.5]])
    seen = torch.randint(0, 5, (rows, words), generator=rng, dtype=torch.int32)
    seen *= torch.randint(0, 4, (rows, words), generator=rng, dtype=torch.int32) == 0
    seen[torch.rand(rows, words, generator=rng) < 0.1] = NEVER_DRAWN
    seen[:, -1] = NEVER_DRAWN
    seen[-1] = 0
    repetition, presence, frequency = kinds.repeat(rows, 1)[:rows].T.contiguous()
    return PenaltyTensors(repetition, presence, frequency, seen)


def fresh(draws: DrawTensors) -> DrawTensors:
    """The same draws; what they have seen is counted on in a copy."""
    return replace(draws, penalties=replace(draws.penalties, seen=draws.penalties.seen.clone()))


@pytest.mark.parametrize("filters", [False, True])
@pytest.mark.parametrize(("words", "dim", "softcap"), [(300, 96, 0.0), (129, 40, 10.0)])
def test_penalised_draws_equal_the_twin(dtype, rng, words, dim, softcap, filters):
    rows = MIXED if filters else [{"temperature": 0.0}, {}, {"temperature": 0.6}, {}]
    hidden, weight = torch.randn(len(rows), dim, generator=rng), torch.randn(words, dim, generator=rng) * 2 * dim**-0.5
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    draws = replace(draws_of(rows), penalties=penalties_of(len(rows), words, rng))
    after = []

    def run():
        own = fresh(draws)
        result = sample(hidden, weight, own, softcap)
        after.append(own.penalties.seen)
        return result

    wanted = fresh(draws)
    tokens, logprobs = wanted_of(hidden, weight, wanted, softcap)
    verify(run, [tokens, logprobs], dtype)
    assert all(torch.equal(seen, wanted.penalties.seen) for seen in after)
    counted = wanted.penalties.seen - draws.penalties.seen
    assert ((counted > 0).sum(1) == 1).all()  # the word just drawn: 2 where it is new, else one more
    assert (draws.penalties.seen.gather(1, tokens[:, None].long()) >= 0).all()


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.7, 2.0]),
    st.sampled_from([1.0, 0.8]),
    st.sampled_from([0, 7]),
    st.sampled_from([0.01, 0.5, 1.0, 2.0, 100.0]),
    st.sampled_from([0.0, 1.5, -0.5]),
    st.sampled_from([0.0, 0.25, -0.25]),
)
def test_penalised_words_are_those_of_the_cpu(seed, temperature, top_p, top_k, repetition, presence, frequency):
    rng = torch.Generator().manual_seed(seed)
    words, numbers = 150, (repetition, presence, frequency)
    logits = (torch.randn(2, words, generator=rng) * 6).round() / 2
    draws = draws_of([{"temperature": temperature, "top_p": top_p, "top_k": top_k}] * 2, seed)
    seen = torch.randint(-1, 4, (2, words), generator=rng, dtype=torch.int32)
    columns = [torch.full((2,), number) for number in numbers]
    tokens, logprobs = sample(
        logits, torch.eye(words), replace(draws, penalties=PenaltyTensors(*columns, seen.clone()))
    )
    given = [Penalty(*numbers, {word: max(n - 1, -1) for word, n in enumerate(row) if n}) for row in seen.tolist()]
    cpu_tokens, cpu_logprobs = cpu_sampler(logits, draws, penalties=given)
    assert tokens.tolist() == cpu_tokens.tolist()
    assert np.allclose(logprobs.numpy(), cpu_logprobs, atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    st.sampled_from([1.0, 0.9, 0.3, 1e-6]),
    st.sampled_from([0, 1, 7, 200]),
    st.sampled_from([0.0, 0.1, 1.0]),
)
def test_the_same_words_as_on_the_cpu(seed, temperature, top_p, top_k, min_p):
    """Identity weights make the logits exact, so that the two must agree, ties and all."""
    rng = torch.Generator().manual_seed(seed)
    words = 150
    logits = torch.randn(2, words, generator=rng) * 3
    logits[1] = (logits[1] * 2).round() / 2  # many ties
    row = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
    draws = draws_of([row, row], seed)
    tokens, logprobs = sample(logits, torch.eye(words), draws)
    cpu_tokens, cpu_logprobs = cpu_sampler(logits, draws)
    assert tokens.tolist() == cpu_tokens.tolist()
    assert np.allclose(logprobs.numpy(), cpu_logprobs, atol=2e-6)


def test_frequencies_follow_the_probabilities():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    draws = draws_of([{}] * 2000)
    tokens, _ = sample(logits.expand(2000, 4).contiguous(), torch.eye(4), draws)
    share = torch.bincount(tokens.long(), minlength=4) / 2000
    assert torch.allclose(share, logits[0].softmax(0), atol=0.04)


@pytest.mark.parametrize("row", [{}, {"top_p": 0.5}, {"top_k": 1}, {"temperature": 0.0}])
def test_damaged_logits_show_in_the_logprob(row):
    hidden = torch.tensor([[float("nan"), 0.0], [1.0, 2.0]])
    with np.errstate(invalid="ignore"):
        tokens, logprobs = sample(hidden, torch.eye(2), draws_of([row, {}]))
    assert not logprobs[0].isfinite()
    assert logprobs[1].isfinite()
    assert (tokens < 2).all()  # the step automaton and the embedding look words up by it
