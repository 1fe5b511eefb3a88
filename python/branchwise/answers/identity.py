"""Are two formulas the same? Yes where both multiply out to the same sum, no where their values differ."""

from __future__ import annotations

import cmath
import math
import re
import zlib
from collections.abc import Callable

from branchwise.answers.expression import parse
from branchwise.answers.sums import ONE, NotAnExpression, Sum, constant, plus, product

_MAX_EXPONENT = 8
_TOLERANCE = 1e-5  # of values; answers may be rounded
_CONSTANTS = {r"\pi": math.pi, "e": math.e, "i": 1j}
_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    r"\sin": cmath.sin, r"\cos": cmath.cos, r"\tan": cmath.tan, r"\ln": cmath.log, r"\exp": cmath.exp,
    r"\cot": lambda x: 1 / cmath.tan(x), r"\sec": lambda x: 1 / cmath.cos(x), r"\csc": lambda x: 1 / cmath.sin(x),
}  # fmt: skip
_CALL = re.compile(r"(\\[a-z]+(?:_\{.*?\})?)\((.*)\)", re.DOTALL)
_POWER = re.compile(r"(\(.*\)|\\?[a-zA-Z]+|\d+)\^\{(.*)\}", re.DOTALL)


def same(one: str, other: str) -> bool | None:
    """Whether two expressions are equal; None where that takes more algebra, or is a matter of rounding."""
    try:
        left, right = parse(one), parse(other)
        if _expanded(left) == _expanded(right):
            return True
    except NotAnExpression:
        return None
    try:
        first, second = _at(left), _at(right)
    except (NotAnExpression, ArithmeticError, ValueError):
        return None
    return False if abs(first - second) > _TOLERANCE * max(abs(first), abs(second)) else None


def _expanded(sum_: Sum) -> Sum:
    """With brackets of whole powers multiplied out."""
    total: Sum = {}
    for monomial, coefficient in sum_.items():
        term = constant(coefficient)
        for base, exponent in monomial:
            if base[0] == "(" and base[-1] == ")" and exponent.denominator == 1 and 0 < exponent <= _MAX_EXPONENT:
                inside = _expanded(parse(base[1:-1]))
                for _ in range(exponent.numerator):
                    term = _distributed(term, inside)
            else:
                term = _distributed(term, {((base, exponent),): ONE})
        total = plus(total, term)
    return total


def _distributed(one: Sum, other: Sum) -> Sum:
    total: Sum = {}
    for monomial, coefficient in one.items():
        for factor, part in other.items():
            total = plus(total, product({monomial: coefficient}, {factor: part}))
    return total


def _at(sum_: Sum) -> complex:
    """The value of a sum where each letter has a number of its own."""
    total: complex = 0
    for monomial, coefficient in sum_.items():
        term: complex = coefficient.numerator / coefficient.denominator
        for base, exponent in monomial:
            term *= _base(base) ** (exponent.numerator / exponent.denominator)
        total += term
    return total


def _base(base: str) -> complex:
    if base.isdigit():
        return int(base)
    if base in _CONSTANTS:
        return _CONSTANTS[base]
    if match := _POWER.fullmatch(base):
        return cmath.exp(_at(parse(match[2])) * cmath.log(_at(parse(match[1]))))
    if base[0] == "(" and base[-1] == ")":
        return _at(parse(base[1:-1]))
    if base[0] == base[-1] == "|":
        return abs(_at(parse(base[1:-1])))
    if (match := _CALL.fullmatch(base)) and match[1] in _FUNCTIONS:
        return _FUNCTIONS[match[1]](_at(parse(match[2])))
    if match or base == r"\infty" or base.endswith("!") or base.startswith(r"\binom"):
        raise NotAnExpression
    return 0.4 + zlib.crc32(base.encode()) / 2**32
