"""A call for completions: what its prompts and options mean, and which jobs it is."""

from __future__ import annotations

import hashlib
import itertools
import reprlib
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

from branchwise.completions import Completion
from branchwise.confidence import ConfidenceOptions
from branchwise.config import (
    SAMPLING,
    EngineConfig,
    check_flag,
    check_sampling,
    check_seed,
    check_texts,
    check_whole,
    is_number,
)  # fmt: skip
from branchwise.errors import ConfigError, InputError
from branchwise.search.call import Call, places_of
from branchwise.search.completion import CompletionJob, OneCompletion, Wanted
from branchwise.search.service import Service
from branchwise.search.ticket import Ticket
from branchwise.strategies.options import check_count, nearest
from branchwise.types import Endings, PromptLogprobs, Sampling, StepOptions

OPTIONS = (
    "seed", "stop", "stop_token_ids", "include_stop", "ignore_eos", "min_tokens", "max_tokens", "logprobs",
    "prompt_logprobs", "confidence_top", "confidence_window", "reuse",
)  # fmt: skip
MOST_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds where a call says nothing; words: token ids of the policy."""

    sampling: Sampling
    stops: tuple[str, ...]
    words: int
    config: EngineConfig


class Completions:
    """Makes jobs of calls, and counts these: one without a seed draws what no other has drawn."""

    def __init__(self, service: Service[Any], defaults: Defaults) -> None:
        self._service = service
        self._defaults = defaults
        self._calls = itertools.count()

    def submit(self, prompts: object, n: int, options: dict[str, Any]) -> Call[Completion]:
        """Queue the samples of one prompt or many. ConfigError, InputError: the call cannot work."""
        given = as_prompts(prompts)
        made, seeds = self._read(n, options, len(given))
        groups = places_of(map(_key, given))
        jobs = []
        for places in groups:
            name = f"prompt {places[0]}" if len(given) > 1 else ""
            wanted = Wanted(
                given[places[0]], n, [seeds[place] for place in places], made, name, self._reuses(options),
                _of_prompt(options),
            )  # fmt: skip
            jobs.append(CompletionJob(self._service, wanted))
        return Call(map(self._service.submit, jobs), groups)

    def one(self, prompt: object, n: int, options: dict[str, Any]) -> Wanted:
        """The samples of a single prompt, checked but not queued."""
        made, seeds = self._read(n, options, 1)
        return Wanted(
            plain(prompt), n, seeds, made, reuse=self._reuses(options), prompt_logprobs=_of_prompt(options)
        )  # fmt: skip

    def submit_one(self, prompt: object, n: int, options: dict[str, Any]) -> Ticket[Completion]:
        """Queue them."""
        return self._service.submit(OneCompletion(self._service, self.one(prompt, n, options)))

    def _reuses(self, options: dict[str, Any]) -> bool:
        return self._defaults.config.prefix_cache and options.get("reuse") is not False

    def _read(self, n: int, options: dict[str, Any], prompts: int) -> tuple[StepOptions, list[int]]:
        """What holds for every sample, and a seed for each prompt."""
        defaults = self._defaults
        check_count("complete", "n", n)
        made = step_options(defaults, options)
        seed = options.get("seed")
        if seed is not None:
            check_seed(seed)
            return made, [int(seed)] * prompts
        call = next(self._calls)
        return made, [call_seed(defaults.config.seed, call, place) for place in range(prompts)]


def as_prompts(given: object) -> list[Any]:
    """One prompt or several as a list; what is no prompt at all is its ticket's error. InputError: no list either."""
    given = plain(given)
    if isinstance(given, str | bytes | Mapping):
        return [given]
    if not isinstance(given, Iterable):
        raise InputError(
            f"prompts are {reprlib.repr(given)}: expected text, chat messages, token ids, or a list of them"
        )
    items = [plain(each) for each in given]
    return [items] if items and isinstance(items[0], Integral | Mapping) else items


def plain(given: Any) -> Any:
    """Arrays and tensors as lists, sequences as lists of their own."""
    if hasattr(given, "tolist"):
        return given.tolist()
    return list(given) if isinstance(given, list | tuple) else given


def _key(prompt: Any) -> Hashable:
    """What prompts are told apart by."""
    if isinstance(prompt, list) and all(isinstance(each, Integral) for each in prompt):
        return tuple(prompt)
    return prompt if isinstance(prompt, str) else repr(prompt)


def call_seed(seed: int, call: int, place: int) -> int:
    """The seed of the prompt at a place in a call that names none: another one each time."""
    digest = hashlib.blake2b(f"{seed}:{call}:{place}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def step_options(defaults: Defaults, options: dict[str, Any]) -> StepOptions:
    """The options of samples: what a call says in place of the defaults. ConfigError: they cannot work."""
    known = (*OPTIONS, *SAMPLING)
    for name in options:
        if name not in known:
            raise ConfigError(
                f"completions have no option {name!r}: they have n, {', '.join(known)}{nearest(name, known)}"
            )
    given = {name: value for name, value in options.items() if value is not None}
    sampling = replace(defaults.sampling, **{name: value for name, value in given.items() if name in SAMPLING})
    check_sampling(sampling)
    least, most = given.get("min_tokens", 0), given.get("max_tokens", defaults.config.max_tokens)
    check_whole("min_tokens", least, 0)
    check_whole("max_tokens", most, 1)
    if least > most:
        raise ConfigError(f"min_tokens={least} is more than max_tokens={most}: lower it, or raise max_tokens")
    return StepOptions(
        sampling, _endings(defaults, given), most, logprobs=_count(given, "logprobs"), min_tokens=least,
        confidence=_confidence(defaults, given),
    )  # fmt: skip


def _count(given: dict[str, Any], name: str) -> int | None:
    """How many likeliest words are wanted of each token; None: nothing is."""
    count = given.get(name)
    if count is None:
        return None
    if not is_number(Integral, count) or not 0 <= count <= MOST_LOGPROBS:
        raise ConfigError(f"{name}={count!r}: expected 0 to {MOST_LOGPROBS} likeliest words of each token, or None")
    return int(count)


def _confidence(defaults: Defaults, given: dict[str, Any]) -> ConfidenceOptions | None:
    names = "confidence_top", "confidence_window"
    return replace(defaults.config, **{name: given[name] for name in names if name in given}).confidence  # checked


def _of_prompt(options: dict[str, Any]) -> PromptLogprobs | None:
    most = _count(options, "prompt_logprobs")
    return None if most is None else PromptLogprobs(most)


def _endings(defaults: Defaults, given: dict[str, Any]) -> Endings:
    texts = check_texts("stop", given.get("stop"))
    for name in ("include_stop", "ignore_eos", "reuse"):
        check_flag(name, given.get(name, False))
    tokens = plain(given.get("stop_token_ids", ()))
    if not isinstance(tokens, list | tuple | set | frozenset):
        raise ConfigError(f"stop_token_ids={reprlib.repr(tokens)}: expected a list of token ids")
    for token in tokens:
        if not is_number(Integral, token) or not 0 <= token < defaults.words:
            raise ConfigError(
                f"stop_token_ids: {token!r} is no token of the policy, which has the ids 0 to {defaults.words - 1}"
            )
    if len(set(tokens)) == defaults.words:
        raise ConfigError(f"stop_token_ids holds all {defaults.words} tokens of the policy: leave some to be written")
    return Endings(
        (), defaults.stops if texts is None else texts, stop_tokens=tuple(sorted(set(map(int, tokens)))),
        ignore_eos=given.get("ignore_eos", False), include_stop=given.get("include_stop", False),
    )  # fmt: skip
