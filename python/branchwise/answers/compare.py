"""Are two answers equal? What their forms settle, and the question that is left for computer algebra."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction

from branchwise.answers.form import Form
from branchwise.answers.identity import same

MAX_MATCHED = 12  # items of two lists that are matched by algebra

Question = list[object]
"""What algebra has to find equal: ["pair", answer, gold], ["all", questions] or ["match", rows of questions].

A match pairs every answer (row) with another gold answer (column). Questions may be True or False where that is known.
"""

_ORDERED = ("tuple", "interval", "matrix", "union")
_COLLECTIONS = ("list", "set", *_ORDERED)
_WORD = re.compile(r"(?<![a-zA-Z\\])(?:[a-zA-Z]{3,}|not?|on|or|of|to|in|is|at)(?![a-zA-Z])")
_NO_ALGEBRA = re.compile(r"\\(?:angle|triangle|to|rightarrow|mapsto|perp|parallel|cong)(?![a-zA-Z])")
_FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "arcsin", "arccos", "arctan", "gcd", "lcm", "det"}
_NAMES = re.compile(r"(?<![a-zA-Z\\])[A-Z]{2,}(?![a-zA-Z])")


def compatible(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two answers may be in the same unit: one that names none may be in any."""
    return one <= other or other <= one


def compare(answer: Form, gold: Form) -> bool | Question:
    """True or False where the forms settle it, else the question for computer algebra."""
    if "blank" in (answer.kind, gold.kind) or not _same_name(answer, gold):
        return False
    if answer.kind == "choice" or gold.kind == "choice":
        return _choices(answer, gold)
    if not compatible(answer.units, gold.units):
        return False
    if answer.kind in _COLLECTIONS or gold.kind in _COLLECTIONS:
        return _collections(answer, gold)
    if answer.text == gold.text and answer.kind == gold.kind:
        return True
    return _scalars(answer, gold)


def _same_name(answer: Form, gold: Form) -> bool:
    """x = 5 is not y = 5."""
    names = {answer.name, gold.name}
    return len(names) == 1 or not all(len(name) == 1 for name in names)


def _choices(answer: Form, gold: Form) -> bool | Question:
    if answer.kind == gold.kind:
        return answer.text == gold.text
    if answer.kind == "choice":
        return compare(answer.items[0], gold) if answer.items else False
    if len(answer.text) == 1 and answer.text.upper() == gold.text:
        return True
    return compare(answer, gold.items[0]) if gold.items else False


def _collections(answer: Form, gold: Form) -> bool | Question:
    kinds = {answer.kind, gold.kind}
    if "relation" in kinds and kinds & {"interval", "union", "set", "tuple"}:
        return _pair(answer, gold)
    if len(answer.items) != len(gold.items):
        return False  # parts are not wholes
    if kinds <= {"list", "set"}:
        if _all_named(answer) == _all_named(gold):
            return _match(answer.items, gold.items)
        kinds = {"list", "tuple"}  # x = 3, y = 4 where 3, 4 is meant
    if kinds == {"list", "tuple"} or kinds == {"interval", "tuple"} or (len(kinds) == 1 and kinds <= set(_ORDERED)):
        if "list" not in kinds and _brackets(answer) != _brackets(gold):
            return False
        items = [_without_name(item) for item in answer.items], [_without_name(item) for item in gold.items]
        return _all([compare(one, other) for one, other in zip(*items, strict=True)])
    return False


def _all_named(form: Form) -> bool:
    return all(item.kind == "relation" and item.items for item in form.items)


def _brackets(form: Form) -> str:
    return form.text[:1] + form.text[-1:] if form.kind in ("tuple", "interval") else form.kind


def _without_name(item: Form) -> Form:
    """The value of `y` in "x = 1, y = 2", where a pair is asked for."""
    return item.items[0] if item.kind == "relation" and item.items else item


def _scalars(answer: Form, gold: Form) -> bool | Question:
    one, other = answer.number, gold.number
    if one is not None and other is not None:
        return _numbers(answer, gold)
    kinds = {answer.kind, gold.kind}
    if "huge" in kinds:
        return False
    if "based" in kinds:
        return answer.kind == "number" and answer.text == gold.whole
    if kinds & {"clock", "ratio"}:
        return _times_and_ratios(answer, gold)
    if kinds == {"relation"} or ("relation" in kinds and all("=" in form.whole for form in (answer, gold))):
        return _pair(answer, gold)
    if kinds == {"text"} and "+" not in answer.text and sorted(answer.text) == sorted(gold.text):
        return False  # P(A|B) is not P(B|A)
    if "relation" in kinds or any(_is_word(form) for form in (answer, gold)):
        return False
    if sorted(_NAMES.findall(answer.text)) != sorted(_NAMES.findall(gold.text)):
        return False  # letter by letter, AB would equal BA
    found = same(answer.text, gold.text)
    return _pair(answer, gold) if found is None else found


def _numbers(answer: Form, gold: Form) -> bool:
    one, other = Fraction(answer.text), Fraction(gold.text)
    if ("%" in answer.units) != ("%" in gold.units):
        share, plain = (one, other) if "%" in answer.units else (other, one)
        return share == plain or share == 100 * plain
    if one == other:
        return True
    for rounded, exact, form in ((one, other, answer), (other, one, gold)):
        if form.decimals >= 6 and not _terminates(exact):
            return abs(rounded - exact) * 10**6 <= abs(exact)
    return False


def _terminates(number: Fraction) -> bool:
    below = number.denominator
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    return below == 1


def _times_and_ratios(answer: Form, gold: Form) -> bool:
    if answer.kind == gold.kind:
        return answer.kind == "clock" and answer.whole == gold.whole
    values: list[Fraction | None] = []
    for form in (answer, gold):
        if form.kind == "clock" and ":" not in form.whole:
            values.append(form.number or Fraction(form.whole))
        elif form.kind in ("clock", "ratio"):
            above, below = (int(part) for part in (form.whole if form.kind == "clock" else form.text).split(":"))
            # 6:30 is a time, 1:12 may be a scale.
            if not below or (form.kind == "clock" and (form.units or math.gcd(above, below) > 1)):
                return False
            values.append(Fraction(above, below))
        else:
            values.append(form.number)
    return None not in values and values[0] == values[1]


def _is_word(form: Form) -> bool:
    r"""Words are no algebra: letter by letter, "east" times anything would equal "seat"."""
    if form.kind != "text":
        return False
    if set(_WORD.findall(form.text)) - _FUNCTIONS or _NO_ALGEBRA.search(form.text) or form.text[-1] in "+-*/^=<>":
        return True
    return not re.search(r"\\[a-zA-Z]|\d|[-+*/^=|!]", form.text)


def _pair(answer: Form, gold: Form) -> Question:
    return ["pair", *(form.text if form.kind in _COLLECTIONS else form.whole or form.text for form in (answer, gold))]


def _all(results: Sequence[bool | Question]) -> bool | Question:
    if not all(results):
        return False
    open_ = [result for result in results if result is not True]
    return ["all", open_] if open_ else True


def _match(answers: Sequence[Form], golds: Sequence[Form]) -> bool | Question:
    """Whether they are equal in some order; what is written alike is paired first."""
    left = list(answers)
    right: list[Form] = []
    for gold in golds:
        twin = next((item for item in left if item.text == gold.text and compare(item, gold) is True), None)
        if twin is None:
            right.append(gold)
        else:
            left.remove(twin)
    if not left:
        return True
    if len(left) > MAX_MATCHED:
        return False
    rows = [[compare(answer, gold) for gold in right] for answer in left]
    if not all(any(row) for row in rows):
        return False
    return ["match", rows]
