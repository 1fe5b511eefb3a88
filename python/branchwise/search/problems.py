"""Questions as clients give them: made into problems, checked before anything is opened, repeats told apart."""

from __future__ import annotations

import hashlib
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from branchwise.config import check_seed
from branchwise.errors import BranchwiseError, ConfigError, InputError
from branchwise.strategies.registry import check_strategy
from branchwise.types import Problem, Settings

_EXPECTED = 'expected a question as text, or Problem(id="...", text="...")'


class Intake:
    """The problems of a run, taken one by one; those that cannot work come with what is wrong with them.

    Random numbers are keyed by id and seed, so that a problem that comes again would be the same search again: its k-th
    repeat gets the seed `seed` + k. Problems of other ids, and those with a seed of their own, are taken as they are.

    seed: of the run    failure: what the iterable itself raised, which ends it
    """

    def __init__(self, given: Iterable[object], seed: int) -> None:
        if isinstance(given, str | bytes | Mapping | Problem):
            raise InputError(f"solve_many was given {reprlib.repr(given)}: put it into a list, or use solve")
        try:
            self._source = iter(given)
        except TypeError:
            raise InputError(f"solve_many was given {reprlib.repr(given)}: expected questions to go through") from None
        self.failure: Exception | None = None
        self._taken = 0
        self._seed = seed
        self._repeats: Counter[str] = Counter()

    def __iter__(self) -> Iterator[tuple[Problem, BranchwiseError | None]]:
        return self

    def __next__(self) -> tuple[Problem, BranchwiseError | None]:
        """The next problem, and what is wrong with it."""
        if self.failure is not None:
            raise StopIteration
        try:
            given = next(self._source)
        except StopIteration:
            raise
        except Exception as error:
            self.failure = error
            raise StopIteration from None
        self._taken += 1
        try:
            return self._told_apart(as_problem(given)), None
        except BranchwiseError as error:
            shown = Problem(f"item {self._taken}", reprlib.repr(given))
            return given if isinstance(given, Problem) else shown, error

    def _told_apart(self, problem: Problem) -> Problem:
        if problem.seed is not None:
            return problem
        key = digest(f"{problem.id}\0{problem.text}")  # a long run keeps no texts
        repeat, self._repeats[key] = self._repeats[key], self._repeats[key] + 1
        return replace(problem, seed=(self._seed + repeat) % 2**64) if repeat else problem


def as_problem(given: object) -> Problem:
    """A question as a `Problem`, with the digest of its text as its id. InputError, ConfigError: it cannot work."""
    if isinstance(given, str):
        given = Problem(digest(given), given)
    if not isinstance(given, Problem):
        raise InputError(f"a problem is {reprlib.repr(given)}: {_EXPECTED}")
    check_problem(given)
    return given


def prompt_problem(prompt: Any) -> Problem:
    """What a tree grown by hand starts from: a question, messages or token ids.

    The PRM is told the last user turn of messages, and nothing of ids.
    """
    if isinstance(prompt, str):
        return as_problem(prompt)
    if not _is_sequence(prompt):
        raise InputError(f"a prompt is {reprlib.repr(prompt)}: expected a question, chat messages or token ids")
    turns = [each for each in prompt if isinstance(each, Mapping) and each.get("role") == "user"]
    text = str(turns[-1].get("content", "")) if turns else ""
    problem = Problem(digest(repr(list(prompt))), text, prompt)
    check_problem(problem)
    return problem


def check_problem(problem: Problem) -> None:
    """Raise InputError or ConfigError for a field that cannot work, whatever the models are."""
    for name in ("id", "text", "answer"):
        value = getattr(problem, name)
        if not isinstance(value, str) and not (name == "answer" and value is None):
            raise InputError(f"the problem {_shown(problem)} has the {name} {reprlib.repr(value)}: expected a string")
    for name in ("id", "text", "answer", "prompt"):
        _check_text(problem, name)
    if problem.prompt is not None and not isinstance(problem.prompt, str) and not _is_sequence(problem.prompt):
        raise InputError(
            f"the problem {_shown(problem)} has the prompt {reprlib.repr(problem.prompt)}: expected a string, chat"
            " messages or token ids"
        )
    if problem.seed is not None:
        check_seed(problem.seed)
    if problem.sampling is not None:
        Settings().step(problem.sampling)
    if problem.strategy is not None:
        if isinstance(problem.strategy, str):
            raise ConfigError(
                f"the problem {_shown(problem)} has the strategy {problem.strategy!r}: expected a strategy itself, as"
                " in BeamSearch(n=16)"
            )
        check_strategy(problem.strategy)


def digest(text: str) -> str:
    """A short name of a text."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=6).hexdigest()


def _check_text(problem: Problem, name: str) -> None:
    value = getattr(problem, name)
    if not isinstance(value, str):
        return
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the problem {_shown(problem)} has half a character at place {error.start} of its {name}, a surrogate"
            f" {value[error.start]!r} without its other half: decode the file that it is from as what it is"
        ) from None


def _shown(problem: Problem) -> str:
    return reprlib.repr(problem.id)


def _is_sequence(prompt: Any) -> bool:
    """Whether it may be messages or token ids, in a list, a tuple or an array."""
    if isinstance(prompt, Mapping | bytes | bytearray):
        return False
    return isinstance(prompt, Sequence) or (hasattr(prompt, "__len__") and hasattr(prompt, "__getitem__"))
