"""What an answer is: a number, a list, an interval, a choice, ... with a text that equal answers share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

Kind = Literal["blank", "number", "expression", "list", "set", "tuple", "interval", "union", "matrix", "choice",
               "relation", "ratio", "clock", "based", "huge", "text"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Form:
    """An answer that was read.

    text      its canonical form
    items     of a collection; the two ends of an interval; what is written beside a choice; the value of a name
    units     what it is measured in, as far as it says so
    name      what stands before "=": `x` of "x = 5"
    whole     text for computer algebra, the name included
    decimals  significant digits of a number that was written as a decimal
    """

    kind: Kind
    text: str
    items: tuple[Form, ...] = ()
    units: frozenset[str] = frozenset()
    name: str = ""
    whole: str = ""
    decimals: int = 0

    @property
    def number(self) -> Fraction | None:
        return Fraction(self.text) if self.kind == "number" else None


@dataclass(frozen=True, slots=True)
class Piece:
    """Cleaned text that a reader looks at. bare: without the marks of upright text."""

    text: str
    bare: str
    depth: int
    reader: Callable[[str, int], Form]

    def read(self, part: str) -> Form:
        """Read a part of it."""
        return self.reader(part, self.depth - 1)


Reader = Callable[[Piece], "Form | None"]
"""Reads one kind of answer; None where the text is something else."""

LOWEST = Form("expression", r"-\infty", whole=r"-\infty")
HIGHEST = Form("expression", r"\infty", whole=r"\infty")
EMPTY = Form("set", r"\emptyset")


def interval(opening: str, low: Form, high: Form, closing: str) -> Form:
    """An interval; in round brackets it may be a point: only the question knows."""
    ends = (replace(low, units=frozenset()), replace(high, units=frozenset()))
    is_point = opening + closing == "()" and "infty" not in low.text + high.text
    return Form("tuple" if is_point else "interval", f"{opening}{low.text},{high.text}{closing}", ends)


def union(parts: Sequence[Form]) -> Form:
    """Intervals in their order on the line."""

    def begin(part: Form) -> tuple[float, str]:
        low = part.items[0].number if part.items else None
        return (-math.inf if low is None else float(low), part.text)

    flat = [piece for part in parts for piece in (part.items if part.kind == "union" else (part,))]
    flat.sort(key=begin)
    return Form("union", r"\cup".join(part.text for part in flat), tuple(flat))


_INDEX = re.compile(r"_\{?\d\}?$")


def listed(items: Sequence[Form]) -> Form:
    """In no order. Names are dropped where all are the same, or only the first item has one: x = 5, -2."""
    names = [_INDEX.sub("", item.name) for item in items]
    if len(set(names)) > 1 and any(names[1:]):
        items = [_equation(item) if item.name else item for item in items]
    flat = tuple(part for item in items for part in (item.items if item.kind == "list" else (item,)))
    units = frozenset[str]().union(*(item.units for item in flat))
    text = ", ".join(sorted(map(inner, flat)))
    return Form("list", text, flat, units, names[0] if len(set(names)) == 1 else "")


def _equation(item: Form) -> Form:
    """A named value whose name matters; it keeps the value."""
    text = f"{item.name}={item.text}"
    return Form("relation", text, (replace(item, name=""),), item.units, whole=text)


def set_of(items: Sequence[Form]) -> Form:
    """Each item once, in no order."""
    unique = tuple(sorted(dict.fromkeys(items), key=lambda item: item.text))
    return Form("set", ", ".join(map(inner, unique)), unique)


def tuple_of(opening: str, items: Sequence[Form], closing: str) -> Form:
    return Form("tuple", opening + ",".join(map(inner, items)) + closing, tuple(items))


def inner(item: Form) -> str:
    r"""The text of an item of a collection; a set in there keeps its braces."""
    return rf"\{{{item.text}\}}" if item.kind == "set" and item.items else item.text
