"""The options that calls take by name, with their types: for type checkers, which refuse a name that is misspelt.

At run time they are checked where they are used; here is what may be given, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from branchwise.answers.vote import Vote
    from branchwise.confidence import Measure
    from branchwise.config import DType, Weights
    from branchwise.prm_format import PrmFormat
    from branchwise.search.protocol import Progress
    from branchwise.types import Aggregate

Texts = str | Sequence[str] | None


class _Sampling(TypedDict, total=False):
    """As in `Sampling`, and the limits and endings of a solution."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    max_tokens: int
    max_step_tokens: int
    confidence_top: int | None
    confidence_window: int
    delimiter: Texts
    stop: Texts
    end_at_answer: bool | None


class EngineOptions(_Sampling, total=False):
    """Fields of `EngineConfig`."""

    dtype: DType
    weights: Weights
    weight_cache: str | os.PathLike[str] | None
    device: str
    prm_device: str | None
    kv_memory: int | None
    max_rows: int
    prefill_rows: int
    speculate: bool
    prefix_cache: bool
    seed: int
    threads: int | None
    prm_format: str | PrmFormat
    date: str | None
    chat_template_kwargs: Mapping[str, Any] | None
    calibration: str | os.PathLike[str] | None
    judge_quality: float | None


class StrategyOptions(_Sampling, total=False):
    """Those of a search by the name of its strategy: what each strategy takes, it says itself."""

    reuse: bool
    n: int
    max_steps: int | None
    aggregate: Aggregate
    vote: Vote
    expand: int
    every: int
    lookahead: int
    duplicates: Literal["keep", "last", "drop"]
    wave: int
    confidence: float
    balance: float
    kv_cost: float
    diversity: float
    alike: float
    resample: Literal["systematic", "multinomial"]
    ess: float
    iterations: int
    references: int
    rule: Literal["puct", "uct"]
    exploration: float
    parallel: int
    posterior: Literal["beta", "gaussian"]
    k: int
    loops: int
    agree: float | None
    ordered: bool
    thoughts: bool
    frame: str | None
    top: int
    window: int
    warmup: int
    consensus: float
    measure: Measure
    power: float
    keep_percent: float
    interval: int | None
    stable: int
    budget: int | None
    waits: int
    end: str
    floor: float
    controller: Literal["gain", "paper"]
    filter_duplicates: bool
    sort_completed: bool
    keep: int
    stop_token: str


class ManyOptions(StrategyOptions, total=False):
    """Of many searches: see `Engine.solve_many`."""

    budget_tokens: float | None
    budget_flops: float | None
    waves: str | os.PathLike[str] | None


class SolveOptions(StrategyOptions, total=False):
    """Of one search: see `Engine.submit`."""

    deadline: float | None
    on_event: Callable[[Progress], None] | None
    seed: int | None
