"""Options that cannot work are refused in one line, whatever they are; those that are accepted can be drawn with."""

from __future__ import annotations

import math
import os
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import branchwise as bw
from branchwise import env
from branchwise.backend.cpu.backend import TileSampler
from branchwise.config import SAMPLING, EngineConfig, check_threads
from branchwise.engine.sampler import Draw, draw_arrays
from branchwise.errors import BranchwiseError, ConfigError, InputError
from branchwise.types import Problem, Sampling, Settings

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 2**31, 2**32, 2**63, 2**64, -1]),
    st.floats(),
    st.sampled_from([1e-39, 1e-30, 5e-324, math.nan, math.inf, 1e308]),
    st.text(max_size=4),
    st.binary(max_size=4),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.complex_numbers(),
)
NAMES = [field.name for field in fields(EngineConfig)]


@given(st.sampled_from(NAMES), JUNK)
def test_any_value_is_accepted_or_refused(name: str, value: Any) -> None:
    try:
        made = EngineConfig(**{name: value})
    except ConfigError as error:
        said = str(error)
    else:
        said = name
        assert getattr(made, name) is value
    assert name in said


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(SAMPLING, JUNK)), JUNK, JUNK)
def test_any_step_option_is_accepted_or_refused(numbers: dict[str, Any], stop: Any, max_tokens: Any) -> None:
    try:
        made = Settings().step(Sampling(**numbers), stop, max_tokens)
    except ConfigError:
        return
    assert draw_arrays([Draw(2**64 - 1, 2**64 - 1, 7, made.sampling)]).temperature[0] <= 100


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 2.5), ("max_tokens", "4"), ("max_tokens", True), ("max_rows", 0), ("prefill_rows", math.nan),
        ("max_step_tokens", None), ("seed", "x"), ("seed", 2**64), ("seed", -1), ("seed", 1.0), ("seed", True),
        ("threads", 0), ("threads", 100_000), ("threads", 2.0), ("threads", 2**70), ("temperature", math.nan),
        ("temperature", "0.8"), ("temperature", True), ("temperature", math.inf), ("top_p", math.nan), ("top_p", 0),
        ("top_k", 2.5), ("top_k", -1), ("repetition_penalty", 0), ("repetition_penalty", 1e-39),
        ("repetition_penalty", math.inf),
        ("repetition_penalty", "1"), ("presence_penalty", math.nan), ("frequency_penalty", 101),
        ("presence_penalty", None),
        ("min_p", math.nan), ("min_p", "0"), ("kv_memory", 1e9), ("kv_memory", "4G"),
        ("speculate", "no"), ("speculate", 1), ("device", 0), ("device", b"cpu"), ("weight_cache", 3),
        ("delimiter", b"\n\n"), ("dtype", ["auto"]), ("weights", {}), ("prm_format", None),
    ],
)  # fmt: skip
def test_wrong_kinds_are_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{name}="):
        EngineConfig(**{name: value})


def test_whole_numbers_of_other_libraries_are_fine() -> None:
    made = EngineConfig(max_tokens=np.int64(5), seed=np.uint64(2**64 - 1), temperature=np.float32(0.5), top_k=2**31)
    assert (made.max_tokens, made.seed) == (5, 2**64 - 1)


def test_sampling_of_another_type_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sampling=\{'temperature': 1\}: expected a Sampling"):
        Settings().step({"temperature": 1})  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["100000", "0", "-1", "2.5", "x", "²", "9" * 30, "9" * 5000])
def test_thread_counts_from_the_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("BRANCHWISE_THREADS", text)
    with pytest.raises(ConfigError, match="BRANCHWISE_THREADS="):
        env.threads()


def test_more_threads_than_cpus_are_allowed() -> None:
    check_threads("threads", 4 * (os.cpu_count() or 1))


# --- accepted values draw what their limit says ------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine():
    with bw.Engine(kv_memory=64 << 20, max_tokens=12) as made:
        yield made


LOGITS = np.random.default_rng(0).normal(size=(40, 700)).astype(np.float32) * 4


@pytest.mark.parametrize("temperature", [1e-39, 1e-45, 1e-300, 1e-30, 1e-9])
@pytest.mark.parametrize("filters", [{}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}])
def test_tiny_temperatures_are_greedy(temperature: float, filters: dict[str, Any]) -> None:
    assert sampled(LOGITS, Sampling(temperature, **filters)) == sampled(LOGITS, Sampling(0.0))


def test_the_limits_of_filters() -> None:
    free, best = sampled(LOGITS, Sampling(1.5)), sampled(LOGITS, Sampling(0.0))
    assert free != best
    for top_k in (2**31, 2**63, 10**30):
        assert sampled(LOGITS, Sampling(1.5, top_k=top_k)) == free
    for top_p in (1e-50, 5e-324, 1e-13):
        assert sampled(LOGITS, Sampling(1.5, top_p=top_p)) == best
    assert sampled(LOGITS, Sampling(1.5, min_p=1 - 1e-12)) == best
    assert sampled(LOGITS, Sampling(1.5, min_p=5e-324)) == free


def test_a_search_at_a_tiny_temperature(engine: bw.Engine) -> None:
    texts = [engine.solve("12+3*4-5=?", "greedy", temperature=t, seed=3, top_k=2**40).text for t in (1e-39, 0)]
    assert texts[0] == texts[1]


@given(
    st.floats(0, 100), st.floats(0, 1, exclude_min=True), st.integers(0, 2**80), st.floats(0, 1, exclude_max=True)
)  # fmt: skip
def test_whatever_is_accepted_draws_a_word(temperature: float, top_p: float, top_k: int, min_p: float) -> None:
    sampling = Sampling(temperature, top_p, top_k, min_p)
    Settings().step(sampling)
    logits = np.linspace(-30, 30, 512, dtype=np.float32)[None]
    (token,), (logprob,) = sampled(logits, sampling)
    assert 0 <= token < 512
    assert math.isfinite(logprob)
    if temperature < 1e-6 or top_k == 1 or top_p < 1e-6:
        assert token == 511


def sampled(logits: np.ndarray, sampling: Sampling) -> tuple[list[int], list[float]]:
    """What the CPU draws from ready logits, one per row."""

    class Head:
        out_features = logits.shape[1]

        def __call__(self, rows: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(logits)

    sampler = TileSampler([Head()], logits.shape[1], 0.0)  # type: ignore[list-item]
    draws = draw_arrays([Draw(1, 2, row, sampling) for row in range(len(logits))])
    ids, logprobs, *_ = sampler.draw(torch.zeros(len(logits), 1), draws)
    return ids.tolist(), logprobs.tolist()


# --- prompts given as token ids ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [10**6, -1, 2**63, 2**70, 1.5, "7", None])
def test_ids_that_the_model_lacks(engine: bw.Engine, bad: Any) -> None:
    free = engine.policy.kv.free_blocks
    for ask in (
        lambda: engine.open([1, bad, 2], branches=2),
        lambda: engine.solve(Problem("a", "?", prompt=[1, bad, 2]), "greedy"),
    ):
        with pytest.raises(InputError, match="token"):
            ask()
    assert engine.policy.kv.free_blocks == free


def test_the_first_id_beyond_the_vocabulary(engine: bw.Engine) -> None:
    words = engine.policy.model.config.vocab_size
    with pytest.raises(InputError, match=rf"token 0 is {words}: .*policy-small has the token ids 0 to {words - 1}"):
        engine.open([words], branches=2)
    engine.open([words - 1], branches=2).close()


def test_bad_problems_leave_the_others_alone(engine: bw.Engine) -> None:
    good = Problem("good", "1+1=?")
    bad = [
        Problem("ids", "?", prompt=[10**6]),
        Problem("seed", "1+1=?", seed=2**64),
        Problem("kind", "1+1=?", seed="x"),  # type: ignore[arg-type]
        Problem("float", "1+1=?", seed=1.5),  # type: ignore[arg-type]
        Problem("nan", "1+1=?", sampling=Sampling(math.nan)),
        Problem("dict", "1+1=?", sampling={"temperature": 1}),  # type: ignore[arg-type]
        Problem("text", "1+1=?", sampling=Sampling(top_k="5")),  # type: ignore[arg-type]
    ]
    results = {result.problem.id: result for result in engine.solve_many([*bad, good], "greedy", max_in_flight=8)}
    assert results["good"].error is None
    assert all(isinstance(results[each.id].error, BranchwiseError) for each in bad)
