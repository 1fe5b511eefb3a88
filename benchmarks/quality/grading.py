"""Grading against math-verify alone, on pairs whose truth is known: gold answers in other words, other answers.

    PYTHONPATH=. python -m benchmarks.quality.grading math500.jsonl gsm8k.jsonl [--pairs 2000] [--seconds 5]

Every line of a file has an "answer". Prints how often each side is right, how often this project agrees with
math-verify where that is right, the longest call, and every pair on which the two differ.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from branchwise.answers import Grader

SEED = 20260101


class Pair(NamedTuple):
    """An answer to be graded, and whether it is equal by construction."""

    gold: str
    answer: str
    equal: bool
    how: str


Change = tuple[str, Callable[[str, random.Random], "str | None"]]


def _number(text: str) -> Fraction | None:
    plain = text.replace(",", "").replace(r"\!", "").strip()
    if match := re.fullmatch(r"(-?)\\[dt]?frac\s*\{?(\d+)\}?\s*\{?(\d+)\}?", plain):
        return Fraction(int(match[2]), int(match[3])) * (-1 if match[1] else 1)
    return Fraction(plain) if re.fullmatch(r"-?\d*\.?\d+", plain) else None


def _items(text: str) -> list[str] | None:
    inner = re.sub(r"\\(?:left|right)", "", text).strip()
    bracketed = re.fullmatch(r"\((.*)\)", inner)
    parts = (bracketed[1] if bracketed else inner).split(",")
    return [part.strip() for part in parts] if len(parts) > 1 and r"\!" not in text else None


def _of_number(change: Callable[[Fraction, random.Random], str | None]) -> Callable[[str, random.Random], str | None]:
    def changed(text: str, random_: random.Random) -> str | None:
        value = _number(text)
        return None if value is None else change(value, random_)

    return changed


def _whole(change: Callable[[int, random.Random], str | None]) -> Callable[[str, random.Random], str | None]:
    return _of_number(lambda value, draw: change(int(value), draw) if value.denominator == 1 else None)


def _decimal(value: Fraction, _: random.Random) -> str | None:
    below = value.denominator
    while below % 2 == 0 or below % 5 == 0:
        below //= 2 if below % 2 == 0 else 5
    return str(float(value)) if below == 1 and value.denominator < 10**4 and abs(value) < 10**6 else None


def _mixed(value: Fraction, _: random.Random) -> str | None:
    whole, rest = divmod(value.numerator, value.denominator)
    return rf"{whole}\frac{{{rest}}}{{{value.denominator}}}" if value > 1 and rest else None


def _turned(text: str) -> str | None:
    items = _items(text)
    return ", ".join(reversed(items)) if items and len(set(items)) > 1 else None


def _palindrome(value: int) -> bool:
    return str(value)[::-1].lstrip("0") == str(value)


def _backwards(text: str) -> str | None:
    word = re.fullmatch(r"\\text\{(\w+)\}", text)
    return rf"\text{{{word[1][::-1]}}}" if word else None


EQUAL: list[Change] = [
    ("same", lambda text, _: text),
    ("dollars", lambda text, _: f"${text}$"),
    ("box", lambda text, _: rf"\boxed{{{text}}}"),
    ("spaces", lambda text, _: None if "\\" in text or "." in text else re.sub(r"([-+=,()])", r" \1 ", text)),
    ("left", lambda text, _: None if r"\left" in text else text.replace("(", r"\left(").replace(")", r"\right)")),
    ("dfrac", lambda text, _: text.replace(r"\frac", r"\dfrac") if r"\frac" in text else None),
    ("slash", _of_number(lambda value, _: str(value) if value.denominator > 1 else None)),
    ("decimal", _of_number(_decimal)),
    ("mixed", _of_number(_mixed)),
    ("twice", _of_number(lambda value, _: rf"\frac{{{2 * value.numerator}}}{{{2 * value.denominator}}}")),
    ("named", _of_number(lambda value, _: f"x = {value}")),
    ("unit", _of_number(lambda value, draw: str(value) + draw.choice(_UNITS))),
    ("thousands", _whole(lambda value, _: f"{value:,}" if abs(value) > 999 else None)),
    ("sum", _whole(lambda value, draw: f"{value - (part := draw.randint(1, 9))}+{part}" if value > 9 else None)),
    ("money", _whole(lambda value, _: rf"\${value}" if value > 0 else None)),
    ("zeros", _whole(lambda value, _: f"{value}.00")),
    ("sentence", lambda text, _: f"The answer is ${text}$."),
    ("braces", lambda text, _: re.sub(r"\^(\d)", r"^{\1}", text) if re.search(r"\^\d", text) else None),
    ("list turned", lambda text, _: None if "(" in text else _turned(text)),
]
OTHER: list[Change] = [
    ("one more", _of_number(lambda value, _: str(value + 1))),
    ("sign", _of_number(lambda value, _: str(-value) if value else None)),
    ("tenfold", _of_number(lambda value, _: str(value * 10) if value else None)),
    ("turned over", _of_number(lambda value, _: str(1 / value) if abs(value) not in (0, 1) else None)),
    ("variable", _of_number(lambda value, _: f"{value}x" if value else None)),
    ("imaginary", _of_number(lambda value, _: rf"{value}\mathrm{{i}}" if value else None)),
    ("not", _of_number(lambda value, _: rf"\neq {value}")),
    ("more than", _of_number(lambda value, _: f"x > {value}")),
    ("false equation", _of_number(lambda value, _: f"{value + 1} = {value}")),
    ("difference", _whole(lambda value, _: f"{value}-{value + 1}" if value > 0 else None)),
    ("million", _whole(lambda value, _: rf"{value}\text{{ million}}" if value else None)),
    ("base", _whole(lambda value, _: f"{value}_7")),
    ("two", _whole(lambda value, _: f"{value}, {value + 1}")),
    (
        "digits turned",
        _whole(lambda value, _: None if value < 0 or _palindrome(value) else str(value)[::-1].lstrip("0")),
    ),
    ("tuple turned", lambda text, _: f"({turned})" if "(" in text and (turned := _turned(text)) else None),
    ("part", lambda text, _: items[0] if (items := _items(text)) and "(" not in text else None),
    ("bracket", lambda text, _: "[" + text[1:] if text[0] == "(" and len(_items(text) or ()) == 2 else None),
    ("more", lambda text, _: None if re.search(r"[,=\[]|text|matrix|_", text) else f"{text} + 10^{{-3}}"),
    ("letters turned", lambda text, _: _backwards(text)),
]
_UNITS = (r" \text{ cm}", r"\text{ units}", r"^\circ", " apples")

HOSTILE = [
    *(Pair(gold, answer, False, "hostile") for gold, answer in (
        ("10^{-18}", "10^{-17}"), (r"\frac{1}{20!}", r"\frac{1}{21!}"), ("(1,2)", r"\{1,2\}"), (r"\text{east}", "seat"),
        (r"\angle ABC", r"\angle ACB"), ("IV", "VI"), ("AB", "BA"), (r"10\text{ a.m.}", r"10\text{ p.m.}"),
        ("2516_8", "2516_9"), ("1", "10^{10^{10}}"), ("1", "9^{9^{9^{9}}}"),
        (r"3\mathbf{i}+4\mathbf{j}", r"3\mathbf{i}"),
        (r"3 \pm 2\sqrt{2}", r"3+2\sqrt{2}"), ("1331 and 1728", "1728"), ("x", "X"), ("x", "x+10^{-20}"),
        (r"\frac{\pi}{10^{20}}", r"\frac{e}{10^{20}}"), ("1", "x^{9^{9^{9^{9}}}}"), ("x+1", "x^{x^{x^{x^{x}}}}"),
        ("1", "(" * 200), ("1", "1" * 390), ("", ""), ("$$", "$$"), ("a-b", "b-a"), ("7", "7-8"),
    )),
    *(Pair(gold, answer, True, "hostile") for gold, answer in (
        ("x^2+2x+1", "(x+1)^2"), ("y=2x+3", "2x-y+3=0"), (r"\sqrt{8}", r"2\sqrt{2}"), (r"\log_2 8", "3"),
        ("[1,2]", r"1\le x\le 2"), (r"1\le x\le 2", "[1,2]"), (r"\sin^2 x", r"1-\cos^2 x"), (r"\binom{10}{3}", "120"),
        (r"3 \pm 2\sqrt{2}", r"3+2\sqrt{2}, 3-2\sqrt{2}"), (r"\mathbb{R}", r"(-\infty,\infty)"),
        (r"\infty", "infinity"),
        (r"(0,9)\cup(9,36)", r"(9,36)\cup(0,9)"), (r"0.\overline{3}", r"\frac13"), ("0.333333", r"\frac13"),
        (r"\begin{pmatrix}1&0\\0&1\end{pmatrix}", r"\begin{bmatrix}1&0\\0&1\end{bmatrix}"),
    )),
]  # fmt: skip


def pairs(golds: list[str], count: int) -> Iterator[Pair]:
    """`count` pairs, half of them equal, drawn with a fixed seed; the hostile ones first."""
    draw = random.Random(SEED)
    yield from HOSTILE
    made = len(HOSTILE)
    while made < count:
        equal = draw.random() < 0.5
        how, change = draw.choice(EQUAL if equal else OTHER)
        gold = draw.choice(golds)
        answer = change(gold, draw)
        if answer is not None:
            made += 1
            yield Pair(gold, answer, equal, how)


def math_verify_alone(answer: str, gold: str) -> bool:
    """As its own documentation does it, each text as a formula."""
    from math_verify import parse, verify

    if "The answer is" not in answer:
        answer = _formula(answer)
    parsed = parse(_formula(gold)), parse(answer)
    return bool(all(parsed) and verify(*parsed))


def _formula(text: str) -> str:
    return f"${text.replace(chr(92) + '$', '').replace('$', '')}$"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("files", nargs="+", type=Path)
    arguments.add_argument("--pairs", type=int, default=2000)
    arguments.add_argument("--seconds", type=float, default=5.0)
    given = arguments.parse_args()
    golds = [json.loads(line)["answer"] for file in given.files for line in file.read_text().splitlines()]
    logging.disable(logging.CRITICAL)
    ours_right = theirs_right = agreed = 0
    longest = total = 0.0
    differing: list[str] = []
    with Grader(given.seconds) as grader:
        grader.grade(r"\log_2 8", "3")  # starts the process
        rows = list(pairs(golds, given.pairs))
        for gold, answer, equal, how in rows:
            begin = time.perf_counter()
            ours = grader.grade(answer, gold)
            took = time.perf_counter() - begin
            longest, total = max(longest, took), total + took
            theirs = math_verify_alone(answer, gold)
            ours_right += ours == equal
            theirs_right += theirs == equal
            agreed += ours == theirs == equal
            if not ours == theirs == equal:
                differing.append(
                    f"{how:16} gold {gold!r} answer {answer!r}: {equal}, ours {ours}, math-verify {theirs}"
                )
    print(*differing, sep="\n")
    print(
        f"{len(rows)} pairs: ours right {ours_right}, math-verify {theirs_right}, agreed in {agreed} of these"
        f" ({100 * agreed / theirs_right:.2f} %); longest call {longest:.2f} s of {given.seconds:g}, mean"
        f" {1000 * total / len(rows):.1f} ms, {grader.timeouts} time-outs"
    )


if __name__ == "__main__":
    main()
