"""Blank lines end steps, but not in fences and formulas: against a reading line by line, on random tokens."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from branchwise.text.automaton import Verdict
from branchwise.text.lexicon import BLANKS, LINE_ENDS
from branchwise.text.steps import SOLUTION, STEP, WAIT, State, StepDetector
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Endings
from text.slow_steps import paragraph_end, text_of
from text.step_tools import Tokens, by_device, length_of, tokens_at, verdicts
from text.vocabularies import CONFIG, CORPUS, byte_level, character_level


def slow_paragraphs(pieces: Sequence[bytes]) -> list[Verdict]:
    text = text_of(b"".join(pieces))
    end, waits = paragraph_end(text)
    places = dict.fromkeys(waits, Verdict.WAIT) | ({end: Verdict.STEP} if end is not None else {})
    return tokens_at(pieces, {length_of(text, place): verdict for place, verdict in places.items()})


WORDS = [
    "\n",
    "\n\n",
    " ",
    "\t\n",
    "\r\n",
    "\u00a0",
    "\u3000\n",
    "\u2028",
    "\u200b",
    "\x85",
    "a",
    "é",
    "漢",
    "1. ",
    "- ",
    "> ",
    "```",
    "```py\n",
    "``",
    "`",
    "````",
    "~~~",
    "~",
    "$$",
    "$",
    "\\$",
    "\\\\",
    "\\[",
    "\\]",
    "\\begin{",
    "\\end{",
    "\\be",
    "gin{",
    "aligned}",
    "[",
]
PIECES = st.lists(st.sampled_from(WORDS).map(str.encode) | st.binary(max_size=2), max_size=24)


@settings(max_examples=300, deadline=None)
@given(PIECES)
@example([b"\xe3\x80", b"\x80\n", b"a\n\xe3", b"\x80", b"\x80\n"])
@example([b"\xe2\x80\n\nb"])
@example([b"```x```\n\na"])
@example([b"1. ```\n\n  ```\n\n"])
@example([b"> ~~~\n> \n\n> ~~~~ \n\n"])
@example([b"```", b"\n", b"> ", b"\n"])
@example([b"> ~~~\n", b"> \n", b">> ~~~~\n", b"\n"])
@example([b"````\n\n```\n\n`````\n\n"])
@example([b"a\\\\[2pt]\n\nb"])
@example([b"`\\[`\n\nb"])
@example([b"\\[\\begin{a}\n\n\\end{a}\n \n\\]\n\nb"])
@example([b"$", b"$", b"$\n\n$", b"$\n\n"])
def test_paragraphs_equal_a_reading_line_by_line(pieces: list[bytes]) -> None:
    detector = StepDetector(Tokens(pieces))
    expected = slow_paragraphs(pieces)
    for _ in range(2):  # the second time from memory
        assert verdicts(detector, range(len(pieces))) == expected


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("a\n\nb", "a\n\n"),
        ("a\n \nb", "a\n \n"),
        ("a\r\n\r\nb", "a\r\n\r\n"),
        ("a\n\u00a0\nb", "a\n\u00a0\n"),
        ("a \n\t\r\nb", "a \n\t\r\n"),
        ("a\n\u3000\u2003\nb", "a\n\u3000\u2003\n"),
        ("a\n\ufeff\nb", "a\n\ufeff\n"),
        ("a\n\u200b\nb", "a\n\u200b\n"),
        ("a\n\v\f\nb", "a\n\v\f\n"),
        ("a\u2028\u2028b", "a\u2028\u2028"),
        ("\n \n\u00a0\n\na\n\nb", "\n \n\u00a0\n\na\n\n"),
        ("a\nb\nc", None),
        ("a\n.\nb", None),
        ("a\n\\ \nb", None),
        ("\\begin{aligned}\na\n\nb\n\\end{aligned}\n\nc", "\\begin{aligned}\na\n\nb\n\\end{aligned}\n\n"),
        ("\\[\na\n\nb\n\\]\n\nc", "\\[\na\n\nb\n\\]\n\n"),
        ("$$a\n\n$$\n\nc", "$$a\n\n$$\n\n"),
        (
            "\\begin{align*}\\begin{cases}\n\n\\end{cases}\n\n\\end{align*}\n\nb",
            "\\begin{align*}\\begin{cases}\n\n\\end{cases}\n\n\\end{align*}\n\n",
        ),
        ("```python\na\n\nb\n```\n\nc", "```python\na\n\nb\n```\n\n"),
        ("~~~\n\n```\n\n~~~\n\nc", "~~~\n\n```\n\n~~~\n\n"),
        ("- x:\n  ```\n\n  ```\n\nc", "- x:\n  ```\n\n  ```\n\n"),
        ("so ``` is it\n\nb", "so ``` is it\n\n"),
        ("```x```\n\nb", "```x```\n\n"),
        ("write `$$` for it\n\nb", "write `$$` for it\n\n"),
        ("cost \\$\\$5\n\nb", "cost \\$\\$5\n\n"),
        ("a \\\\[2pt]\n\nb", "a \\\\[2pt]\n\n"),
        ("\\end{a}\n\nb", "\\end{a}\n\n"),
        ("$$x$$ and $$y$$\n\nb", "$$x$$ and $$y$$\n\n"),
        ("```\n\nnever closed\n\n", None),
        ("\\[\n\nnever", None),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_where_paragraphs_end(text: str, after: str | None, size: int) -> None:
    data = text.encode()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    found = verdicts(StepDetector(Tokens(pieces)), range(len(pieces)))
    ended = found[-1] is Verdict.STEP
    assert ended == (after is not None)
    if after is not None:
        assert (len(found) - 1) * size < len(after.encode()) <= len(found) * size


TOKENS_END = Endings((), ("a b", "\n"), stop_tokens=(3, 30), ignore_eos=True)


@settings(max_examples=8, deadline=None)
@given(PIECES, st.sampled_from([Endings(), Endings(("\n\n", "a")), Endings(None, ("```", "a "), True), TOKENS_END]))
def test_a_device_reads_the_same(pieces: list[bytes], endings: Endings) -> None:
    detector = StepDetector(Tokens(pieces), endings)
    assert by_device(detector, range(len(pieces))) == verdicts(detector, range(len(pieces)))


def test_a_step_cut_in_a_fence_goes_on_in_it_but_formulas_are_forgotten() -> None:
    pieces = [b"```\n\n", b"```\n\n", b"\\[\n\n", b"a\n\n"]
    detector = StepDetector(Tokens(pieces))
    state, verdict = detector.advance(detector.start, 0)
    assert verdict is Verdict.WAIT
    assert detector.advance(detector.next_step(state), 1)[1] is Verdict.STEP  # the fence was closed
    state, verdict = detector.advance(detector.start, 2)
    assert verdict is Verdict.WAIT
    assert detector.advance(detector.next_step(state), 3)[1] is Verdict.STEP


@pytest.mark.parametrize("make", [byte_level, character_level])
@pytest.mark.parametrize(
    "endings", [Endings(), Endings(("  ",)), Endings(("e", "\n\n"), ("42", "😀"), True), TOKENS_END, Endings(())]
)
def test_real_tokens_in_random_order(make: Callable[[], Backend], endings: Endings) -> None:
    """The table of a device says what the host says, for every word and whatever comes before."""
    tokenizer = Tokenizer.from_json(make().to_str(), CONFIG)
    detector = StepDetector(tokenizer, endings)
    table = detector.table(tokenizer.vocab_size + 3)
    assert len(table.functions) == tokenizer.vocab_size + 3
    source = random.Random(1)
    frequent = [id for text in CORPUS for id in tokenizer.encode(text)]
    for _ in range(30):
        state: State = detector.start
        for id in source.choices(frequent, k=60) + source.choices(range(tokenizer.vocab_size), k=20):
            row = table.transitions[table.functions[id], np.array(state) + table.first]
            state, verdict = detector.advance(state, id)
            assert verdict == {STEP: Verdict.STEP, SOLUTION: Verdict.SOLUTION}.get(
                int(row.min()), Verdict(int((row >= WAIT).any()))
            )
            if verdict >= Verdict.STEP:
                state = detector.next_step(state)
            else:
                assert tuple(row % WAIT - table.first) == state
    padding = table.transitions[table.functions[-1]] % WAIT
    assert padding.tolist() == list(range(table.transitions.shape[1]))


def test_the_end_of_the_sequence_ends_a_solution() -> None:
    tokenizer = Tokenizer.from_json(byte_level().to_str(), CONFIG)
    detector, (end, *_) = StepDetector(tokenizer), sorted(tokenizer.eos_ids)
    assert detector.advance(detector.start, end)[1] is Verdict.SOLUTION
    table = detector.table(tokenizer.vocab_size)
    assert (table.transitions[table.functions[end]] == SOLUTION).all()
    ignoring = StepDetector(tokenizer, Endings(ignore_eos=True))
    assert ignoring.advance(ignoring.start, end) == (ignoring.start, Verdict.GO)


def test_special_tokens_change_nothing() -> None:
    tokenizer = Tokenizer.from_json(byte_level().to_str(), CONFIG)
    detector = StepDetector(tokenizer)
    (special,) = tokenizer.encode("<|im_start|>", special=True)
    (newline,) = tokenizer.encode("\n")
    state, _ = detector.advance(detector.start, tokenizer.encode("x")[0])
    state, verdict = detector.advance(state, newline)
    assert verdict is Verdict.GO
    assert detector.advance(state, special) == (state, Verdict.GO)
    assert detector.advance(state, newline)[1] is Verdict.STEP


def test_white_space_is_what_python_says_and_what_nobody_sees() -> None:
    spaces = {char for char in map(chr, range(0x3001)) if char.isspace()}
    assert set(BLANKS) | set(LINE_ENDS) == spaces | set(
        "\xad\u180e\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064\ufeff"
    )
