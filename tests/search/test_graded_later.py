"""An answer that takes algebra is graded beside the service, which goes on with everybody else."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from branchwise.errors import EngineStateError, InputError
from branchwise.search.driver import submit
from branchwise.search.protocol import Progress
from branchwise.search.service import Service
from branchwise.search.session import SearchOptions
from branchwise.strategies import BeamSearch
from branchwise.types import Problem, Settings
from search.scripted import ScriptedPair, run

BEAM = BeamSearch(n=4, expand=2, max_steps=5)


class SlowGrader:
    """Grades the gold answers in `slow` when told to, others at once."""

    def __init__(self, *slow: str) -> None:
        self.pending: dict[str, Future[bool]] = {gold: Future() for gold in slow}

    def __call__(self, answer: str | None, gold: str) -> bool | Future[bool]:
        return self.pending.get(gold, True)


def problems(count: int) -> list[Problem]:
    return [Problem(f"p{index}", f"text {index}", answer=str(index)) for index in range(count)]


def test_others_go_on_while_one_is_graded() -> None:
    grader, pair, finished = SlowGrader("1"), ScriptedPair(), []

    def watch(progress: Progress) -> None:
        if progress.result is not None:
            finished.append((progress.problem.id, progress.result.correct))

    results = run(problems(5), BEAM, pair, max_in_flight=2, grade=grader, on_event=watch)
    assert sorted(next(results).problem.id for _ in range(4)) == ["p0", "p2", "p3", "p4"]
    assert pair.open_trees == []  # what is graded holds no room
    threading.Timer(0.05, grader.pending["1"].set_result, [False]).start()
    (last,) = results
    assert (last.problem.id, last.correct) == ("p1", False)
    assert sorted(finished) == [("p0", True), ("p1", False), ("p2", True), ("p3", True), ("p4", True)]


def test_a_grader_that_fails_later_fails_that_problem_alone() -> None:
    grader = SlowGrader("0")
    results = run(problems(3), BEAM, ScriptedPair(), max_in_flight=3, grade=grader)
    assert [next(results).correct for _ in range(2)] == [True, True]
    grader.pending["0"].set_exception(InputError("no"))
    (last,) = results
    assert type(last.error) is InputError


def test_close_and_cancel_while_it_is_graded() -> None:
    grader = SlowGrader("0", "1")
    service = Service(ScriptedPair())
    options = SearchOptions(BEAM, Settings(), grade=grader)
    given_up, closed, done = (submit(service, problem, options) for problem in problems(3))
    service.wait(done.done)
    assert not given_up.done()
    assert given_up.cancel()
    grader.pending["0"].set_result(True)
    assert given_up.cancelled()
    service.close()
    with pytest.raises(EngineStateError, match="closed"):
        closed.result()
    grader.pending["1"].set_result(True)


def test_what_is_graded_at_once_needs_no_other_turn() -> None:
    grader = SlowGrader("0")
    grader.pending["0"].set_result(False)
    (result,) = run(problems(1), BEAM, ScriptedPair(), grade=grader)
    assert result.correct is False
