"""A small algebra: sums of products of powers with rational coefficients, exact, bounded, and written in one way.

Enough that the ways to write a number, a fraction, a root or a polynomial meet in one form; factoring and identities
are left to a computer algebra system.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction

MAX_BITS = 1200  # of a numerator or denominator
_MAX_TERMS = 60
_PRIMES = tuple(n for n in range(2, 1000) if all(n % d for d in range(2, math.isqrt(n) + 1)))

Monomial = tuple[tuple[str, Fraction], ...]  # (base, exponent) in order; a prime with an exponent below 1 is a root
Sum = Mapping[Monomial, Fraction]

ONE = Fraction(1)


class NotAnExpression(Exception):
    """The text is something else, or beyond what is read here."""


class TooLarge(NotAnExpression):
    """A number of more than MAX_BITS bits."""


def value(sum_: Sum) -> Fraction | None:
    """The number that a sum is, or None."""
    if not sum_:
        return Fraction(0)
    return sum_.get(()) if len(sum_) == 1 else None


def variables(sum_: Sum) -> set[str]:
    """The letters of a sum, those inside brackets and constants such as pi among them."""
    return {letter for monomial in sum_ for base, _ in monomial for letter in re.findall(r"\\?[a-zA-Z]+", base)}


def minus(one: Sum, other: Sum) -> Sum:
    return plus(one, scaled(other, Fraction(-1)))


def primitive(sum_: Sum) -> tuple[Fraction, Sum]:
    """A factor, and the sum without it: whole coefficients without a common divisor, the first one positive."""
    divisor = math.gcd(*(part.numerator for part in sum_.values()))
    multiple = math.lcm(*(part.denominator for part in sum_.values()))
    factor = Fraction(divisor, multiple) * (1 if sum_[_ordered(sum_)[0]] > 0 else -1)
    return factor, scaled(sum_, 1 / factor)


def write(sum_: Sum) -> str:
    """LaTeX of a sum; equal sums give equal text."""
    if (number := value(sum_)) is not None:
        return str(number)
    terms = [_write_term(sum_[monomial], monomial) for monomial in _ordered(sum_)]
    return terms[0] + "".join(term if term[0] == "-" else "+" + term for term in terms[1:])


# --- arithmetic ------------------------------------------------------------------------------------------------


def plus(one: Sum, other: Sum) -> Sum:
    total = dict(one)
    for monomial, coefficient in other.items():
        total[monomial] = _bounded(total.get(monomial, Fraction(0)) + coefficient)
        if not total[monomial]:
            del total[monomial]
    if len(total) > _MAX_TERMS:
        raise NotAnExpression
    return total


def scaled(sum_: Sum, factor: Fraction) -> Sum:
    return {monomial: _bounded(part * factor) for monomial, part in sum_.items()} if factor else {}


def product(one: Sum, other: Sum) -> Sum:
    for scalar, rest in ((one, other), (other, one)):
        if (factor := value(scalar)) is not None:
            return scaled(rest, factor)
    (part, left), (factor, right) = _single(one), _single(other)
    powers = dict(left)
    for base, exponent in right:
        powers[base] = powers.get(base, Fraction(0)) + exponent
    return _monomial(part * factor, powers)


def power(base: Sum, exponent: Sum) -> Sum:
    degree = value(exponent)
    if degree is None:
        return _symbolic(base, exponent)
    number = value(base)
    if number is not None:
        return _number_power(number, degree)
    part, monomial = _single(base)
    if degree.denominator == 1:
        return product(_number_power(part, degree), _monomial(ONE, {each: power * degree for each, power in monomial}))
    if part > 0 and len(monomial) == 1 and monomial[0][1] == 1:
        return product(_number_power(part, degree), _monomial(ONE, {monomial[0][0]: degree}))
    return {((f"({write(base)})", degree),): ONE}


def _symbolic(base: Sum, exponent: Sum) -> Sum:
    """`2^{n+1}` is one base of its own."""
    written = write(base)
    below = written if re.fullmatch(r"\\?[a-zA-Z]+|\d+", written) else f"({written})"
    return {((f"{below}^{{{write(exponent)}}}", ONE),): ONE}


def _number_power(number: Fraction, degree: Fraction) -> Sum:
    """A rational number to a rational power: a coefficient, and roots of primes."""
    if not number:
        if degree <= 0:
            raise NotAnExpression
        return {}
    if degree.denominator == 1:
        bits = max(abs(number.numerator), number.denominator).bit_length() - 1
        if abs(degree.numerator) * bits > MAX_BITS:
            raise TooLarge
        return {(): number**degree.numerator}
    if number < 0 or degree.denominator > 12:
        raise NotAnExpression
    powers: dict[str, Fraction] = {}
    for side, sign in ((number.numerator, 1), (number.denominator, -1)):
        for prime, times in _factors(side).items():
            powers[str(prime)] = powers.get(str(prime), Fraction(0)) + sign * times * degree
    return _monomial(ONE, powers)


def _monomial(coefficient: Fraction, powers: Mapping[str, Fraction]) -> Sum:
    """A term; whole powers of numbers go into its coefficient."""
    kept: dict[str, Fraction] = {}
    for base, exponent in powers.items():
        if base.isdigit():
            whole = math.floor(exponent)
            coefficient = _bounded(coefficient * (value(_number_power(Fraction(int(base)), Fraction(whole))) or 0))
            exponent -= whole
        if exponent:
            kept[base] = exponent
    return {tuple(sorted(kept.items())): coefficient}


def _single(sum_: Sum) -> tuple[Fraction, Monomial]:
    """A sum as one term: one of several terms becomes a base in brackets."""
    if len(sum_) == 1:
        monomial, part = next(iter(sum_.items()))
        return part, monomial
    if not sum_:
        return Fraction(0), ()
    factor, rest = primitive(sum_)
    return factor, ((f"({write(rest)})", ONE),)


def _factors(number: int) -> dict[int, int]:
    """Prime factors with their multiplicity; what is left beyond small primes counts as one, unless it is a square."""
    found: dict[int, int] = {}
    for prime in _PRIMES:
        while number % prime == 0:
            found[prime] = found.get(prime, 0) + 1
            number //= prime
        if prime * prime > number:
            break
    if number > 1:
        root = math.isqrt(number)
        square = root * root == number
        found[root if square else number] = found.get(root if square else number, 0) + 1 + square
    return found


def _bounded(number: Fraction) -> Fraction:
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > 2 * MAX_BITS:
        raise TooLarge
    return number


def constant(number: Fraction) -> Sum:
    return {(): number} if number else {}


def inverse(sum_: Sum) -> Sum:
    if not sum_:
        raise NotAnExpression
    return power(sum_, {(): Fraction(-1)})


def factorial(sum_: Sum) -> Sum:
    number = value(sum_)
    if number is None:
        return {((f"({write(sum_)})!", ONE),): ONE}
    if number.denominator != 1 or number < 0:
        raise NotAnExpression
    if number > 150:
        raise TooLarge
    return {(): Fraction(math.factorial(number.numerator))}


def absolute(sum_: Sum) -> Sum:
    number = value(sum_)
    return constant(abs(number)) if number is not None else {((f"|{write(sum_)}|", ONE),): ONE}


def function(name: str, argument: Sum) -> Sum:
    """A function by name; a logarithm that is a whole number is that number."""
    number = value(argument)
    base = re.fullmatch(r"\\log_\{(\d{1,9})\}", name)
    if base and int(base[1]) > 1 and number is not None and number > 0:
        power_ = round(math.log(number, int(base[1])))
        if Fraction(int(base[1])) ** power_ == number:
            return constant(Fraction(power_))
    return {((f"{name}({write(argument)})", ONE),): ONE}


def binomial(above: Sum, below: Sum) -> Sum:
    n, k = value(above), value(below)
    if n is None or k is None:
        return {((rf"\binom{{{write(above)}}}{{{write(below)}}}", ONE),): ONE}
    if n.denominator != 1 or k.denominator != 1 or not k >= 0 or n < 0:
        raise NotAnExpression
    if n > 300:
        raise TooLarge
    return constant(Fraction(math.comb(n.numerator, k.numerator)))


# --- writing ---------------------------------------------------------------------------------------------------


def _ordered(sum_: Sum) -> list[Monomial]:
    """Highest powers first, a constant last."""
    return sorted(sum_, key=lambda monomial: (not monomial, -sum(power for _, power in monomial), monomial))


def _write_term(coefficient: Fraction, monomial: Monomial) -> str:
    above: list[str] = []
    below: list[str] = []
    roots: dict[int, int] = {}
    for base, exponent in monomial:
        if base.isdigit():
            roots[exponent.denominator] = roots.get(exponent.denominator, 1) * int(base) ** exponent.numerator
        else:
            (above if exponent > 0 else below).append(_write_power(base, abs(exponent)))
    above += [rf"\sqrt{{{radicand}}}" if degree == 2 else rf"\sqrt[{degree}]{{{radicand}}}"
              for degree, radicand in sorted(roots.items())]  # fmt: skip
    top = _joined(str(abs(coefficient.numerator)), above)
    bottom = _joined(str(coefficient.denominator), below)
    sign = "-" if coefficient < 0 else ""
    return sign + (top if bottom == "1" else rf"\frac{{{top}}}{{{bottom}}}")


def _write_power(base: str, exponent: Fraction) -> str:
    if exponent == 1:
        return base
    if re.search(r"\^\{.*\}$", base):
        base = f"({base})"
    return f"{base}^{{{exponent}}}"


def _joined(number: str, factors: list[str]) -> str:
    text = number if number != "1" or not factors else ""
    for factor in factors:
        commanded = re.search(r"\\[a-zA-Z]+$", text) is not None
        text += (
            " " if commanded and factor[0].isalpha() else r"\cdot " if factor[0].isdigit() and text else ""
        ) + factor
    return text
