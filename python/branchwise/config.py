"""Engine options: wishes (`EngineConfig`), resolved once against the models and the machine (`ResolvedConfig`)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

from branchwise.chat_options import ChatOptions
from branchwise.confidence import MOST_TOP, ConfidenceOptions
from branchwise.errors import ConfigError
from branchwise.prm_format import PrmFormat

MAX_ENDING_BYTES = 1024  # of all delimiters, and of all stops: states of an automaton on a GPU are 14 bits

DType = Literal["auto", "float32", "bfloat16", "float16"]
Weights = Literal["dense", "stored", "int8", "q8", "q4"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the caller wishes. `None` means: choose for me.

    weights       form of the matrices of both models; all but "dense" are for the CPU, and multiply x as int8, too:
                  "dense": as `dtype`; "stored": a GGUF file's blocks as they are, its dense tensors as `dtype`;
                  "int8": one scale an output; "q8", "q4": groups of 32, 8.5 and 5 bits a weight
    weight_cache  folder that keeps the matrices of both models as the CPU's kernels read them, in a file for each: the
                  next start reads that file and not the checkpoint's matrices. Results are the same; a checkpoint that
                  changed gets a new file instead of the old one; files may be deleted at any time
    device        "cpu", "cuda", "cuda:1", ...; "auto": a GPU where there is one
    prm_device    the PRM's, where it has one of its own
    kv_memory     bytes for the KV of policy and PRM together (of each, where they run on two devices); default: a
                  quarter of the free memory, 8 GiB at most; on a GPU four fifths of what the weights leave
    max_rows      rows decoded in one iteration at most (further branches wait their turn)
    prefill_rows  prompt and PRM tokens fed in one iteration at most
    speculate     let a branch whose step is done go on in a row that is free, before the strategy has decided: results
                  are the same, iterations may be fewer, and what was written in vain is in `cost`
    prefix_cache  keep the KV of prompts and judged steps until its memory is needed, for later ones that begin alike.
                  Searches and trees grown by hand come to the same bits with it
    max_tokens    tokens of one solution at most; max_step_tokens: of one step
    delimiter     text that ends a step, or several, taken literally, or none: []; default: a blank line, or one of
                  white space, outside of code fences, formulas and environments
    stop          text that ends a solution, or several; it is no part of the solution
    end_at_answer end a solution with the line of its boxed answer, or where a line begins with "Problem:" or
                  "Question:"; default: for models without a chat template, which do not end by themselves
    confidence_top     tell how sure the policy was of every token, in `Node.confidence`, and of candidates and samples:
                       over so many likeliest words (DeepConf takes 20); default: only where a strategy, or a judge,
                       wants to know
    confidence_window  tokens of a group, for the measures of candidates and samples
    temperature ... frequency_penalty: see `Sampling`
    seed          of all sampling; a problem may carry its own
    date          day that the policy's chat template is told, as in "2026-11-30", or "today"; default: 2024-07-26,
                  always, so that the same seed gives the same tree tomorrow
    chat_template_kwargs  further variables of that template: {"enable_thinking": False}
    calibration   file of `branchwise calibrate` for these models: what `confidence` and the strategy "auto" go by;
                  default: rules of thumb, or for the bundled pair what was measured of it
    judge_quality of the judge, P(a right solution has a higher score than a wrong one), 0.5 to 1, for these rules
    prm_format    name in `PRM_FORMATS`, a `PrmFormat` of one's own, or "auto": by the PRM's head and class; a plain
                  causal LM needs a name
    """

    dtype: DType = "auto"
    weights: Weights = "dense"
    weight_cache: str | os.PathLike[str] | None = None
    device: str = "auto"
    prm_device: str | None = None
    kv_memory: int | None = None
    max_rows: int = 256
    prefill_rows: int = 512
    speculate: bool = False
    prefix_cache: bool = True
    max_tokens: int = 2048
    max_step_tokens: int = 512
    delimiter: str | Sequence[str] | None = None
    stop: str | Sequence[str] | None = None
    end_at_answer: bool | None = None
    confidence_top: int | None = None
    confidence_window: int = 2048
    temperature: float = 0.8
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    threads: int | None = None
    prm_format: str | PrmFormat = "auto"
    date: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    calibration: str | os.PathLike[str] | None = None
    judge_quality: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_rows", "prefill_rows", "max_tokens", "max_step_tokens"):
            check_whole(name, getattr(self, name), 1)
        for name in ("speculate", "prefix_cache"):
            check_flag(name, getattr(self, name))
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ConfigError(f"dtype={self.dtype!r}: expected auto, float32, bfloat16 or float16 (GPU only)")
        if self.weights not in get_args(Weights):
            raise ConfigError(f"weights={self.weights!r}: expected one of {', '.join(get_args(Weights))}")
        if self.weight_cache is not None and not (
            isinstance(self.weight_cache, str | os.PathLike) and str(self.weight_cache)
        ):
            raise ConfigError(f"weight_cache={self.weight_cache!r}: expected a folder, '.' for this one")
        if self.calibration is not None and not isinstance(self.calibration, str | os.PathLike):
            raise ConfigError(
                f"calibration={self.calibration!r}: expected a file that branchwise calibrate has written"
            )
        quality = self.judge_quality
        if quality is not None and not (is_number(Real, quality) and 0.5 <= quality <= 1):
            raise ConfigError(f"judge_quality={quality!r}: expected 0.5 (it guesses) to 1 (it is always right)")
        check_device("device", self.device)
        if self.prm_device is not None:
            check_device("prm_device", self.prm_device)
        check_texts("delimiter", self.delimiter)
        check_texts("stop", self.stop)
        if self.end_at_answer is not None and not isinstance(self.end_at_answer, bool):
            raise ConfigError(f"end_at_answer={self.end_at_answer!r}: expected True, False or None")
        if self.confidence_top is not None:
            check_top("confidence_top", self.confidence_top)
        check_whole("confidence_window", self.confidence_window, 1)
        if self.kv_memory is not None:
            check_whole("kv_memory", self.kv_memory, 1 << 20, " bytes (1 MiB)")
        check_sampling(self)
        check_seed(self.seed)
        ChatOptions.make(self.date, self.chat_template_kwargs)
        if self.threads is not None:
            check_threads("threads", self.threads)
        if not isinstance(self.prm_format, str | PrmFormat):
            raise ConfigError(f"prm_format={self.prm_format!r}: expected a name, 'auto', or a PrmFormat")

    @property
    def confidence(self) -> ConfidenceOptions | None:
        """What of the policy's confidence is told; None: nothing."""
        return None if self.confidence_top is None else ConfidenceOptions(self.confidence_top, self.confidence_window)


def check_whole(name: str, value: object, least: int, unit: str = "") -> None:
    """Raise ConfigError unless `value` is a whole number of at least `least`."""
    if not is_number(Integral, value) or value < least:  # type: ignore[operator]
        raise ConfigError(f"{name}={value!r}: expected a whole number of at least {least}{unit}")


def check_top(name: str, value: object) -> None:
    """Raise ConfigError unless confidence can look at so many likeliest words."""
    if not is_number(Integral, value) or not 1 <= value <= MOST_TOP:  # type: ignore[operator]
        raise ConfigError(f"{name}={value!r}: expected a whole number of likeliest words from 1 to {MOST_TOP}")


def check_flag(name: str, value: object) -> None:
    """Raise ConfigError unless it is True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={value!r}: expected True or False")


def check_device(name: str, device: object) -> None:
    """Raise ConfigError unless it is the name of a device, which need not be there."""
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|interpreter|cuda(:\d+)?", device):
        raise ConfigError(
            f"{name}={device!r}: expected auto, cpu, cuda, one GPU of several as in cuda:1, or interpreter"
        )


def check_texts(name: str, texts: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """One text or several that end something, as a tuple; None as it is. Raise ConfigError for one that cannot."""
    if texts is None:
        return None
    if not isinstance(texts, str | list | tuple):
        raise ConfigError(f"{name}={texts!r}: expected a text or a list of texts")
    found = (texts,) if isinstance(texts, str) else tuple(texts)
    for text in found:
        if not isinstance(text, str) or not text:
            raise ConfigError(f"{name}={texts!r}: {text!r} ends nothing, expected some text such as '\\n\\n'")
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise ConfigError(f"{name}={texts!r}: a lone surrogate is no text, expected valid Unicode")
    if sum(len(text.encode()) for text in found) > MAX_ENDING_BYTES:
        raise ConfigError(f"{name}: {len(found)} texts of more than {MAX_ENDING_BYTES} bytes together, give fewer")
    return found


def check_feed(feed: object) -> str:
    """A text that a step begins with, as it is. Raise ConfigError for one that cannot be."""
    if not isinstance(feed, str) or not feed:
        raise ConfigError(f"feed={feed!r}: expected a text that the step begins with, None for none")
    if any("\ud800" <= char <= "\udfff" for char in feed):
        raise ConfigError(f"feed={feed!r}: a lone surrogate is no text, expected valid Unicode")
    return feed


def check_seed(seed: object) -> None:
    """Raise ConfigError unless it can key random numbers."""
    if not is_number(Integral, seed) or not 0 <= seed < 1 << 64:  # type: ignore[operator]
        raise ConfigError(f"seed={seed!r}: expected a whole number in [0, 2^64)")


def check_threads(name: str, count: object) -> None:
    """Raise ConfigError unless this machine can run so many threads to any use."""
    cpus = os.cpu_count() or 1
    most = max(64, 4 * cpus)
    if not is_number(Integral, count) or not 1 <= count <= most:  # type: ignore[operator]
        raise ConfigError(
            f"{name}={count!r}: expected a whole number of threads from 1 to {most}; this machine has {cpus} CPUs"
        )


SAMPLING: dict[str, tuple[type, Callable[[Any], bool], str]] = {
    "temperature": (Real, lambda x: 0 <= x <= 100, "0 (greedy) to 100"),
    "top_p": (Real, lambda x: 0 < x <= 1, "a share in (0, 1]; 1 switches it off"),
    "top_k": (Integral, lambda x: x >= 0, "a count of words; 0 switches it off"),
    "min_p": (Real, lambda x: 0 <= x < 1, "a share in [0, 1); 0 switches it off"),
    "repetition_penalty": (Real, lambda x: 0.01 <= x <= 100, "0.01 to 100; 1 switches it off"),
    "presence_penalty": (Real, lambda x: -100 <= x <= 100, "-100 to 100; 0 switches it off"),
    "frequency_penalty": (Real, lambda x: -100 <= x <= 100, "-100 to 100; 0 switches it off"),
}
"""The numbers of a `Sampling`: their kind, what can work, and how that is said."""


def check_sampling(sampling: object) -> None:
    """Raise ConfigError unless all numbers of a `Sampling`, or those of the same names, can work."""
    for name, (kind, works, expected) in SAMPLING.items():
        value = getattr(sampling, name)
        if not is_number(kind, value) or not works(value):
            raise ConfigError(f"{name}={value!r}: expected {expected}")


def is_number(kind: type, value: object) -> bool:
    """Whether it is a number of a kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class ResolvedConfig:
    """What the engine runs with: no `None`, printable, never changed."""

    device: str  # the policy's
    kernels: str  # that run there
    dtype: str
    prm_device: str
    prm_kernels: str
    prm_dtype: str
    weights: str
    policy_blocks: int
    prm_blocks: int
    kv_memory: int
    threads: int
    date: str  # that the policy's chat template is told
    notes: tuple[str, ...] = ()  # what a user should know about these models
