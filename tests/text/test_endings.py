"""Texts that end a step or a solution, and answers that do: against plain searches, on random tokens."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from branchwise.config import check_texts
from branchwise.errors import ConfigError
from branchwise.text.automaton import Verdict
from branchwise.text.steps import StepDetector
from branchwise.types import Endings
from text.slow_steps import literal_end, solution_end
from text.step_tools import Tokens, by_device, end_of_branch, length_of, tokens_at, verdicts

LITERALS = [
    ("\n\n",),
    ("\n",),
    ("#",),
    ("a#a",),
    ("aab",),
    ("abaab",),
    ("é",),
    (" ки\n",),
    ("\nStep",),
    ("a#", "#a"),
    ("aa", "aab", "b"),
    ("\u3000", "a\u3000a"),
]
LITERAL_PIECES = st.lists(
    st.text("\n a#é\u3000b").map(str.encode)
    | st.binary(max_size=3)
    | st.sampled_from([b"\n\n", b"", b"a\n\nb", b" \n"]),
    max_size=14,
)


@settings(max_examples=200, deadline=None)
@given(pieces=LITERAL_PIECES, texts=st.sampled_from(LITERALS))
@example(pieces=[b"\n\n", b"\n", b"a", b"\n", b"\n"], texts=("\n\n",))
@example(pieces=["é".encode()[:1], "é".encode()[1:], "é".encode()[:1], "é".encode()[1:]], texts=("é",))
@example(pieces=[b"aa", b"aa", b"b"], texts=("aab",))
def test_literal_delimiters_equal_a_search_in_the_text(pieces: list[bytes], texts: tuple[str, ...]) -> None:
    detector = StepDetector(Tokens(pieces), Endings(texts))
    expected = tokens_at(pieces, {literal_end(b"".join(pieces), texts, after_something=True): Verdict.STEP})
    assert verdicts(detector, range(len(pieces))) == expected


@settings(max_examples=200, deadline=None)
@given(pieces=LITERAL_PIECES, stops=st.sampled_from(LITERALS))
@example(pieces=[b"a\n", b"\nSt", b"ep"], stops=("\n\nStep",))
def test_what_ends_a_solution_is_found_across_steps(pieces: list[bytes], stops: tuple[str, ...]) -> None:
    steps, over = end_of_branch(StepDetector(Tokens(pieces), Endings(stops=stops)), range(len(pieces)))
    assert over == (literal_end(b"".join(pieces), stops, after_something=False) is not None)
    assert over or len("".join(steps)) >= len(b"".join(pieces).decode(errors="ignore"))


@pytest.mark.parametrize(
    ("pieces", "stops", "kept"),
    [
        ([b"a", b"b#", b"#c"], ("##",), ["ab"]),
        ([b"a\n", b"\nSt", b"ep"], ("\n\nStep",), ["a\n\nSt", ""]),
        ([b"ab</ans", b"wer></answer> x"], ("</answer>",), ["ab"]),
        ([b"abc"], ("c", "bc", "xbc"), ["ab"]),  # of those that end together the one named first
        ([b"abc"], ("xbc", "bc", "c"), ["a"]),
        ([b"xa\n\n", b"yQ:"], ("yQ:", "Q:"), ["xa\n\n", ""]),
        ([b"xa\n\n", b"yQ:"], ("Q:", "\nyQ:"), ["xa\n\n", "y"]),
        ([b"xa\n\n", b"yQ:"], ("\nyQ:", "Q:"), ["xa\n\n", ""]),
        ([b"##"], ("##",), [""]),
        (["a é".encode()[:3], "é".encode()[1:] + b"!"], ("é",), ["a "]),
    ],
)
def test_what_ends_a_solution_has_no_text(pieces: list[bytes], stops: tuple[str, ...], kept: list[str]) -> None:
    assert end_of_branch(StepDetector(Tokens(pieces), Endings(stops=stops)), range(len(pieces))) == (kept, True)


ANSWERS = [
    "\\boxed{",
    "\\boxed {",
    "\\fbox{",
    "{",
    "}",
    "\\{",
    "\\}",
    "\\\\",
    "5",
    "\n",
    "\n\n",
    " ",
    "Problem",
    "Question",
    "QUESTION",
    ":",
    " 2:",
    "**",
    "# ",
    "x",
    "\u3000",
    "Pro",
    "blem:",
    "\\",
    "boxed{1}",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(ANSWERS).map(str.encode), max_size=16))
@example([b"Problem: x\n\\boxed{5}. So\nP"])
@example([b"\\boxed{{{{{{{{{{{{{{1}}}}}}}}}}}}}}\n"])
def test_answers_end_a_solution(pieces: list[bytes]) -> None:
    detector = StepDetector(Tokens(pieces), Endings(("\0",), (), True))
    text = b"".join(pieces).decode()
    end = solution_end(text)
    expected = tokens_at(pieces, {None if end is None else length_of(text, end): Verdict.SOLUTION})
    assert verdicts(detector, range(len(pieces))) == expected


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("So \\boxed{5}.\nAnd then", "So \\boxed{5}.\n"),
        ("$$\\boxed{\\frac{1}{2}}$$\nx", "$$\\boxed{\\frac{1}{2}}$$\n"),
        ("\\boxed{\\{1\\}}\r\nx", "\\boxed{\\{1\\}}\r\n"),
        ("x=5\nProblem: next", "x=5\n"),
        ("x=5\n## Question 12: n", "x=5\n"),
        ("x=5\n**Problem:** n", "x=5\n"),
        ("x=\n\nProblem: n", "x=\n\n"),
        ("Put it in \\boxed{}.\nx", None),
        ("Problem: restated\nx", None),
        ("the Problem: is\nx", None),
        ("\\boxed{5", None),
        ("x\nProblems: many\n", None),
        ("x\nProblem solved\n", None),
    ],
)
@pytest.mark.parametrize("size", [1, 4, 100])
def test_what_is_left_of_an_answered_solution(text: str, kept: str | None, size: int) -> None:
    data = text.encode()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    steps, over = end_of_branch(StepDetector(Tokens(pieces), Endings(at_answer=True)), range(len(pieces)))
    assert (over, "".join(steps)) == (kept is not None, text if kept is None else kept)


def test_delimiters_of_any_length_have_a_table() -> None:
    pieces = [b"x", b"x" * 64, b"a", b"y" * 500]
    detector = StepDetector(Tokens(pieces), Endings(("x" * 128, "x" * 700), ("y" * 1000,)))
    assert by_device(detector, [2, 1, 0, 1]) == [Verdict.GO] * 3 + [Verdict.STEP]
    assert by_device(detector, [2, 1, 2, 3, 3]) == [Verdict.GO] * 4 + [Verdict.SOLUTION]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("", r"stop='': '' ends nothing"),
        (["a", ""], r"'' ends nothing"),
        ([3], "3 ends nothing"),
        (3, "stop=3: expected"),
        (b"a", "expected a text"),
        ("\ud800", "lone surrogate"),
        ("x" * 1025, "more than 1024 bytes"),
    ],
)
def test_texts_that_can_end_nothing(texts: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_texts("stop", texts)  # type: ignore[arg-type]
