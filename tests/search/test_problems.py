"""One bad row never ends a run: what is no problem, or cannot be opened, has a result with an error of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwise.errors import BranchwiseError, ConfigError, InputError
from branchwise.search.problems import Intake, as_problem, check_problem
from branchwise.strategies import BeamSearch, Majority
from branchwise.types import Problem, Sampling
from search.scripted import ScriptedPair, run, shape

BEAM = BeamSearch(n=4, expand=2, max_steps=5)


class Raises:
    """A strategy that fails in one of its methods."""

    name = "raises"

    def __init__(self, where: str) -> None:
        self._where = where

    def __getattr__(self, name: str) -> Any:
        if name == self._where:
            return lambda *args: 1 / 0
        return getattr(BEAM, name)


BAD: list[tuple[object, str]] = [
    (None, "is None: expected a question"),
    (7, "is 7: expected a question"),
    (b"1+1=?", "expected a question"),
    ({"problem": "1+1=?"}, r"\{'problem': '1\+1=\?'\}: expected a question"),
    ([{"role": "user", "content": "1+1=?"}], "expected a question"),
    (Problem, "expected a question"),
    ("\ud800", "half a character at place 0"),
    (Problem("a", None), "the text None: expected a string"),  # type: ignore[arg-type]
    (Problem(3, "a"), "the id 3: expected a string"),  # type: ignore[arg-type]
    (Problem("a", "a", answer=3), "the answer 3: expected a string"),  # type: ignore[arg-type]
    (Problem("a", "a", answer="\udfff"), "half a character"),
    (Problem("a", "a", prompt=3), "the prompt 3: expected"),  # type: ignore[arg-type]
    (Problem("a", "a", prompt={"role": "user"}), "the prompt .*: expected"),  # type: ignore[arg-type]
    (Problem("a", "a", prompt=b"a"), "the prompt b'a': expected"),  # type: ignore[arg-type]
    (Problem("a", "a", seed=-1), "seed=-1"),
    (Problem("a", "a", seed=2**64), "seed=18446744073709551616"),
    (Problem("a", "a", seed="1"), "seed='1'"),  # type: ignore[arg-type]
    (Problem("a", "a", sampling=Sampling(temperature=-1)), "temperature=-1"),
    (Problem("a", "a", sampling=0.5), "sampling=0.5"),  # type: ignore[arg-type]
    (Problem("a", "a", strategy="beam"), "strategy 'beam': expected a strategy itself"),  # type: ignore[arg-type]
    (Problem("a", "a", strategy=BeamSearch), "expected an instance, as in BeamSearch()"),  # type: ignore[arg-type]
    (Problem("a", "a", strategy=5), "strategy 5: it lacks demand"),  # type: ignore[arg-type]
    *((Problem("a", "a", strategy=Raises(where)), "ZeroDivisionError") for where in ("demand", "start", "propose")),
    (Problem("a", "a", strategy=Raises("select")), "ZeroDivisionError"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
@pytest.mark.parametrize("max_in_flight", [1, 3])
def test_a_bad_row_has_an_error_and_the_others_are_what_they_are_alone(
    bad: Any, message: str, max_in_flight: int
) -> None:
    pair = ScriptedPair()
    given: list[Any] = ["one", bad, "two", "three"]
    results = list(run(given, BEAM, pair, max_in_flight=max_in_flight))
    alone = {text: shape(next(run([text], BEAM, ScriptedPair()))) for text in ("one", "two", "three")}
    failed = [result for result in results if result.error is not None]
    assert {result.problem.text: shape(result) for result in results if result.error is None} == alone
    assert len(results) == 4
    (result,) = failed
    assert isinstance(result.error, BranchwiseError)
    with pytest.raises(type(result.error), match=message):
        raise result.error
    assert (result.answer, result.candidates, result.strategy != "") == (None, [], True)
    assert result.problem is bad or result.problem.id == "item 2"
    assert pair.open_trees == []


class Refusing(ScriptedPair):
    """Cannot open the problem "bad"."""

    error: Exception = InputError("the chat template refuses these messages")

    def open(self, problem: Problem, *args: Any) -> Any:
        if problem.text == "bad":
            raise self.error
        return super().open(problem, *args)


@pytest.mark.parametrize("error", [InputError("refused"), KeyError("role"), IndexError("refused"), RecursionError()])
def test_whatever_opening_a_problem_raises_is_the_error_of_that_problem(error: Exception) -> None:
    pair = Refusing()
    pair.error = error
    results = {each.problem.text: each for each in run(["one", "bad", "two"], BEAM, pair, max_in_flight=2)}
    assert sorted(text for text, result in results.items() if result.error is None) == ["one", "two"]
    assert isinstance(results["bad"].error, InputError)
    assert results["bad"].error is error or results["bad"].error.__cause__ is error


@pytest.mark.parametrize("later", [False, True], ids=["at once", "beside the search"])
def test_a_grader_that_fails_fails_alone(later: bool) -> None:
    def grade_at_once(answer: str | None, gold: str) -> bool:
        return {"1": True}[gold]

    pool = ThreadPoolExecutor(1)

    def grade_later(answer: str | None, gold: str) -> Future[bool]:
        return pool.submit(lambda: (time.sleep(0.05), grade_at_once(answer, gold))[1])

    grade = grade_later if later else grade_at_once
    rows = [Problem("a", "a", answer="1"), Problem("b", "b", answer="2")]
    results = {each.problem.id: each for each in run(rows, BEAM, ScriptedPair(), grade=grade)}
    assert results["a"].correct is True
    assert "grading it raised KeyError" in str(results["b"].error)
    pool.shutdown()


@pytest.mark.parametrize("max_in_flight", [1, 2, 9])
def test_an_error_of_the_iterable_comes_after_the_results_of_what_it_gave(max_in_flight: int) -> None:
    def source() -> Iterator[str]:
        yield from ("one", "two", "three")
        raise OSError("the file ends here")

    pair, taken = ScriptedPair(), []
    found = run(source(), BEAM, pair, max_in_flight=max_in_flight)
    with pytest.raises(OSError, match="ends here"):
        taken.extend(each.problem.text for each in found)
    assert sorted(taken) == ["one", "three", "two"]
    assert pair.open_trees == []


@pytest.mark.parametrize("given", ["1+1=?", b"12", {"a": 1}, Problem("a", "a"), 5, None, print])
def test_what_cannot_be_gone_through_is_refused_at_once(given: Any) -> None:
    with pytest.raises(InputError, match="solve_many was given"):
        run(given, BEAM, ScriptedPair())


def test_repeats_are_other_samples() -> None:
    pair = ScriptedPair()
    pinned = [Problem("x", "x", seed=9), Problem("x", "x", seed=9)]
    rows: list[Any] = ["q", "r", "q", Problem("q", "q"), "q", *pinned, Problem("q", "q"), Problem("p", "q")]
    results = list(run(rows, BEAM, pair, max_in_flight=1))
    assert [tree.settings.seed for tree in pair.trees] == [0, 0, 1, 0, 2, 9, 9, 1, 0]
    assert results[0].problem == as_problem("q")  # the first one is what it is alone


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=12), st.integers(0, 2**64 - 1))
def test_the_seed_of_a_repeat_is_its_number_among_its_equals(texts: list[str], seed: int) -> None:
    problems = [problem for problem, _ in Intake(texts, seed)]
    for place, (text, problem) in enumerate(zip(texts, problems, strict=True)):
        repeat = texts[:place].count(text)
        assert problem.text == text
        assert problem.seed == ((seed + repeat) % 2**64 if repeat else None)
    assert len({(problem.id, problem.seed) for problem in problems}) == len(problems)


FIELDS: list[Callable[[Any], Problem]] = [
    lambda value: Problem(value, "a"),
    lambda value: Problem("a", value),
    lambda value: Problem("a", "a", prompt=value),
    lambda value: Problem("a", "a", answer=value),
    lambda value: Problem("a", "a", seed=value),
    lambda value: Problem("a", "a", strategy=value),
    lambda value: Problem("a", "a", sampling=value),
]
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.integers()),
    st.dictionaries(st.text(), st.integers()), st.just(np.arange(3)), st.just(object()), st.just(Majority),
)  # fmt: skip


@given(st.sampled_from(FIELDS), ANYTHING)
def test_whatever_is_in_a_problem_it_works_or_is_refused(make: Callable[[Any], Problem], value: Any) -> None:
    with suppress(ConfigError, InputError):
        check_problem(make(value))
