"""Grading: canonical forms, algebra, and a time limit that holds against anything."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from branchwise.answers.grade import Grader, grade
from branchwise.errors import ConfigError

HARD = "x^{9^{9^{9^{9}}}}"  # not even algebra sees that it is no answer
EASY = (r"\lfloor 3.7 \rfloor", "3")  # which takes algebra
PATHOLOGICAL = [HARD, "2^{10^{10^{10}}}y"]


@pytest.fixture(scope="module")
def grader() -> Grader:
    with Grader(20.0) as grader:
        yield grader


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        (r"\frac{2}{4}x", "x/2", True),
        ("(x+1)^2", "x^2+2x+1", True),
        (r"2\sqrt{2}", r"\sqrt{8}", True),
        ("2,1", "1,2", True),
        ("0.5", "50%", True),
        ("x+1", "x+2", False),
        ("(1,2)", "(2,1)", False),
        ("((((((", "1", False),
        ("9^9^9^9", "1", False),
        ("\x00 \N{SNOWMAN}", "1", False),
    ],
)
def test_algebra(grader: Grader, answer: str, gold: str, right: bool) -> None:
    assert grader(answer, gold) is right


def test_what_needs_no_worker() -> None:
    with Grader() as grader:
        assert grader.grade("0.50", r"\frac12")
        assert not grader.grade(None, "1")
        assert not grader.grade("", "")
        assert not grader.grade("east", "seat")
        assert not grader.grade("1+" * 1000 + "1", "1001")
        assert grader.worker.pid is None
    assert grade("1/2", "0.5")


@pytest.fixture
def hurried(grader: Grader, monkeypatch: pytest.MonkeyPatch) -> Grader:
    """Ready, and with half a second for a question."""
    assert grader.grade(*EASY)
    monkeypatch.setattr(grader, "seconds", 0.5)
    monkeypatch.setattr(grader, "timeouts", 0)
    return grader


def test_the_limit_holds_in_threads_and_costs_no_new_start(hurried: Grader) -> None:
    process = hurried.worker.pid
    begin = time.perf_counter()
    replies: list[bool] = []
    threads = [
        threading.Thread(target=lambda text=text: replies.append(hurried.grade(text, "1"))) for text in PATHOLOGICAL
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [False, False]
    assert 0.8 < time.perf_counter() - begin < 20.0
    hurried.seconds = 20.0
    assert hurried.grade(*EASY)
    assert (hurried.worker.pid, hurried.timeouts) == (process, 2)


def test_what_is_submitted_is_graded_beside(hurried: Grader) -> None:
    assert hurried.submit("0.5", r"\frac12").done()
    slow = hurried.submit(HARD, "x+7")
    assert not slow.done()
    assert slow.result(60.0) is False
    hurried.seconds = 20.0
    assert hurried.submit(*EASY).result(60.0) is True
    assert hurried.submit(None, "1").result() is False


def test_close_ends_the_process_and_a_dead_one_is_replaced() -> None:
    grader = Grader(20.0)
    assert grader.grade(*EASY)
    first = grader.worker.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert grader.grade(*EASY)
    second = grader.worker.pid
    assert second not in (None, first)
    grader.close()
    assert not Path(f"/proc/{second}").exists()
    grader.close()


def test_worker_ends_with_its_object() -> None:
    grader = Grader(20.0)
    assert grader.grade(*EASY)
    pid = grader.worker.pid
    del grader
    assert pid is not None
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_limit_must_be_positive(seconds: float) -> None:
    with pytest.raises(ConfigError, match="positive"):
        Grader(seconds)


def test_without_math_verify_forms_are_compared_which_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sys.path", [])
    with Grader() as grader:
        assert [grader.grade(*EASY) for _ in range(3)] == [False] * 3
        assert grader.grade("0.5", r"\frac12")
    assert [record.message.count("math-verify") for record in caplog.records] == [1]
