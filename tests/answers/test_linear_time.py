"""Whatever a model writes, and however much of it: reading it takes time linear in its length."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from branchwise.answers import canonical, extract_answer
from branchwise.answers.grade import Grader

LENGTH = 100_000
PIECES = [
    " ", "\n", "{", "}", "$", "$$", r"\boxed{", r"\boxed{1}, ", r"\boxed 1 and ", "1", "1,", "1,000,", "answer is ",
    "the answer is\n", "answer", "answer: ", "\\", "(", "()", "((1,", "<think>", "</think>", "<answer>", "####",
    "#### 1\n", "*", "**Answer**\n", "a", "A) ", "p.m. ", "Dr. ", "=", "x<", r"\text{", r"\frac", r"\sqrt", "^{",
    "_", "!", "0.1", "-", "---\n", "answer is not ", r"\(", r"\[", r"\begin{align*}", " and ", "twenty ",
    "\N{NO-BREAK SPACE}", "\x02", r"\,", "5 cm ", "if the answer is ", "12 is the answer. ", "Problem: ",
    "<|im_start|>user\n", "answer is $", "```\n", r"\pm", "\N{VULGAR FRACTION ONE HALF}", "1:", "0.333", "...",
    "\r\n", "9^9^", "option A ",
]  # fmt: skip


def shapes(piece: str, length: int) -> list[str]:
    many = piece * (length // len(piece))
    return [many, f"answer is a{many}b", rf"\boxed{{{many}}}"]


def seconds(call: Callable[[str], object], text: str) -> float:
    begin = time.process_time()
    call(text)
    return time.process_time() - begin


@pytest.mark.parametrize("piece", PIECES)
def test_extraction_of_100_000_characters(piece: str) -> None:
    assert max(seconds(extract_answer, text) for text in shapes(piece, LENGTH)) < 1.0


@pytest.mark.parametrize("piece", PIECES)
def test_forms_of_the_longest_answers_and_of_longer_ones(piece: str) -> None:
    for text in (*shapes(piece, 380), *shapes(piece, LENGTH)[:1]):
        assert seconds(canonical, text) < 1.0


@pytest.mark.parametrize("piece", PIECES[::9])
def test_twice_the_text_takes_twice_the_time(piece: str) -> None:
    for short, long in zip(shapes(piece, LENGTH), shapes(piece, 4 * LENGTH), strict=True):
        assert seconds(extract_answer, long) < 12 * seconds(extract_answer, short) + 0.5


@pytest.mark.parametrize("piece", PIECES[::9])
def test_grading_without_algebra(piece: str) -> None:
    with Grader() as grader:
        for text in shapes(piece, LENGTH):
            assert seconds(lambda text=text: grader.grade(text, "east"), text) < 2.0
        assert grader.worker.pid is None
