"""A small algebra: sums of products of powers with rational coefficients, exact and bounded.

Enough that the ways to write a number, a fraction, a root or a polynomial meet in one form; factoring and identities are
left to a computer algebra system.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import NoReturn

MAX_BITS = 1200  # of a numerator or denominator
_MAX_DEPTH = 24
_MAX_TERMS = 60
_PRIMES = tuple(n for n in range(2, 1000) if all(n % d for d in range(2, math.isqrt(n) + 1)))

Monomial = tuple[tuple[str, Fraction], ...]  # (base, exponent) in order; a prime with an exponent below 1 is a root
Sum = Mapping[Monomial, Fraction]

_TOKEN = re.compile(r"\\[a-zA-Z]+|\d+\.?\d*|\.\d+|[a-zA-Z]|\*\*|[-+*/^_(){}\[\]!]|\s+")
_VARIABLES = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon"
    " phi chi psi omega pi infty Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell".split()
)
_ONE = Fraction(1)


class NotAnExpression(Exception):
    """The text is something else, or beyond what is read here."""


class TooLarge(NotAnExpression):
    """A number of more than MAX_BITS bits."""


@lru_cache(maxsize=4096)
def parse(text: str) -> Sum:
    """Read a sum. NotAnExpression for anything else; TooLarge for a number that nobody writes out."""
    return _Parser(text).whole()


def value(sum_: Sum) -> Fraction | None:
    """The number that a sum is, or None."""
    if not sum_:
        return Fraction(0)
    return sum_.get(()) if len(sum_) == 1 else None


def variables(sum_: Sum) -> set[str]:
    """The letters of a sum, those inside brackets and constants such as pi among them."""
    return {letter for monomial in sum_ for base, _ in monomial for letter in re.findall(r"\\?[a-zA-Z]+", base)}


def minus(one: Sum, other: Sum) -> Sum:
    return _plus(one, _scaled(other, Fraction(-1)))


def primitive(sum_: Sum) -> tuple[Fraction, Sum]:
    """A factor, and the sum without it: whole coefficients without a common divisor, the first one positive."""
    divisor = math.gcd(*(part.numerator for part in sum_.values()))
    multiple = math.lcm(*(part.denominator for part in sum_.values()))
    factor = Fraction(divisor, multiple) * (1 if sum_[_ordered(sum_)[0]] > 0 else -1)
    return factor, _scaled(sum_, 1 / factor)


def write(sum_: Sum) -> str:
    """LaTeX of a sum; equal sums give equal text."""
    if (number := value(sum_)) is not None:
        return str(number)
    terms = [_write_term(sum_[monomial], monomial) for monomial in _ordered(sum_)]
    return terms[0] + "".join(term if term[0] == "-" else "+" + term for term in terms[1:])


# --- arithmetic ------------------------------------------------------------------------------------------------


def _plus(one: Sum, other: Sum) -> Sum:
    total = dict(one)
    for monomial, coefficient in other.items():
        total[monomial] = _bounded(total.get(monomial, Fraction(0)) + coefficient)
        if not total[monomial]:
            del total[monomial]
    if len(total) > _MAX_TERMS:
        raise NotAnExpression
    return total


def _scaled(sum_: Sum, factor: Fraction) -> Sum:
    return {monomial: _bounded(part * factor) for monomial, part in sum_.items()} if factor else {}


def _product(one: Sum, other: Sum) -> Sum:
    for scalar, rest in ((one, other), (other, one)):
        if (factor := value(scalar)) is not None:
            return _scaled(rest, factor)
    (part, left), (factor, right) = _single(one), _single(other)
    powers = dict(left)
    for base, exponent in right:
        powers[base] = powers.get(base, Fraction(0)) + exponent
    return _monomial(part * factor, powers)


def _power(base: Sum, exponent: Sum) -> Sum:
    degree = value(exponent)
    if degree is None:
        return _symbolic(base, exponent)
    number = value(base)
    if number is not None:
        return _number_power(number, degree)
    part, monomial = _single(base)
    if degree.denominator == 1:
        return _product(_number_power(part, degree), _monomial(_ONE, {each: power * degree for each, power in monomial}))
    if part > 0 and len(monomial) == 1 and monomial[0][1] == 1:
        return _product(_number_power(part, degree), _monomial(_ONE, {monomial[0][0]: degree}))
    return {((f"({write(base)})", degree),): _ONE}


def _symbolic(base: Sum, exponent: Sum) -> Sum:
    """`2^{n+1}` is one base of its own."""
    written = write(base)
    below = written if re.fullmatch(r"\\?[a-zA-Z]+|\d+", written) else f"({written})"
    return {((f"{below}^{{{write(exponent)}}}", _ONE),): _ONE}


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
    return _monomial(_ONE, powers)


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
    return factor, ((f"({write(rest)})", _ONE),)


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


# --- writing ---------------------------------------------------------------------------------------------------


def _ordered(sum_: Sum) -> list[Monomial]:
    """Highest powers first, a constant last."""
    return sorted(sum_, key=lambda monomial: (not monomial, -sum(power for _, power in monomial), monomial))


def _write_term(coefficient: Fraction, monomial: Monomial) -> str:
    above, below = [], []
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
        text += (" " if commanded and factor[0].isalpha() else r"\cdot " if factor[0].isdigit() and text else "") + factor
    return text


# --- reading ---------------------------------------------------------------------------------------------------


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        end = 0
        for match in _TOKEN.finditer(text):
            if match.start() != end:
                raise NotAnExpression
            end = match.end()
            if not match[0].isspace():
                self._tokens.append(match[0])
            elif self._tokens and self._tokens[-1][-1].isdigit() and text[end : end + 1].isdigit():
                self._tokens.append(" ")  # between two numbers only
        if end != len(text) or not self._tokens:
            raise NotAnExpression
        self._tokens.append("")
        self._at = 0
        self._depth = 0

    def whole(self) -> Sum:
        found = self._sum()
        if self._next:
            raise NotAnExpression
        return found

    @property
    def _next(self) -> str:
        return self._tokens[self._at]

    def _take(self) -> str:
        token = self._next
        self._at += bool(token)  # the empty one at the end stays
        return token

    def _accept(self, *tokens: str) -> str:
        return self._take() if self._next and self._next in tokens else ""

    def _expect(self, token: str) -> None:
        if not self._accept(token):
            raise NotAnExpression

    def _fail(self) -> NoReturn:
        raise NotAnExpression

    def _sum(self) -> Sum:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise NotAnExpression
        sign = self._accept("+", "-")
        total = _scaled(self._product(), Fraction(-1 if sign == "-" else 1))
        while sign := self._accept("+", "-"):
            total = _plus(total, _scaled(self._product(), Fraction(-1 if sign == "-" else 1)))
        self._depth -= 1
        return total

    def _product(self) -> Sum:
        total, mixed = self._factor()
        while True:
            sign = self._accept("*", "/")
            if sign:
                negative = self._accept("-")
                factor, mixed = self._factor()
                factor = _scaled(factor, Fraction(-1)) if negative else factor
                total = _product(total, _inverse(factor) if sign == "/" else factor)
            elif mixed and self._starts_fraction():  # 1\frac{1}{2} and "1 1/2" are sums
                whole = total
                total, mixed = self._mixed(), False
                total = _plus(whole, total)
            elif self._starts_factor():
                factor, mixed = self._factor()
                total = _product(total, factor)
            else:
                return total

    def _starts_fraction(self) -> bool:
        return self._next in ("\\frac", " ")

    def _mixed(self) -> Sum:
        """The fraction after a whole number."""
        if self._accept(" "):
            above, slash, below = self._take(), self._take(), self._take()
            if slash != "/" or not (above.isdigit() and below.isdigit()) or not int(below):
                raise NotAnExpression
            part = {(): Fraction(int(above), int(below))}
        else:
            part = dict(self._factor()[0])
        if (value(part) or 0) <= 0:
            raise NotAnExpression
        return part

    def _starts_factor(self) -> bool:
        token = self._next
        if token.isdigit() or token[:1] == "." or token == " ":
            raise NotAnExpression  # "x2", "3 4"
        return token[:1].isalpha() or token in ("(", "{", "[") or (token[:1] == "\\" and bool(token[1:].isalpha()))

    def _factor(self) -> tuple[Sum, bool]:
        """A base with its powers, and whether it is a plain whole number, which a fraction may follow."""
        token = self._next
        found = self._base()
        plain = token.isdigit() and self._next != "!"
        while True:
            if self._accept("!"):
                found = _factorial(found)
            elif self._accept("^", "**"):
                found, plain = _power(found, self._exponent()), False
            elif token.isdigit() and self._next == "_":
                raise NotAnExpression  # a number in some base
            else:
                return found, plain

    def _exponent(self) -> Sum:
        if self._accept("{"):
            found = self._sum()
            self._expect("}")
            return found
        sign = Fraction(-1 if self._accept("-") else 1)
        token = self._next
        if token.isdigit():
            return _scaled({(): Fraction(int(self._take()))}, sign)
        return _scaled(self._base(), sign)

    def _base(self) -> Sum:
        token = self._take()
        if token[:1].isdigit() or token[:1] == ".":
            if len(token) > 300:
                raise TooLarge
            return _constant(Fraction(token))
        for opening, closing in (("(", ")"), ("{", "}"), ("[", "]")):
            if token == opening:
                found = self._sum()
                self._expect(closing)
                return found
        if token.isalpha() or token[1:] in _VARIABLES:
            return {((self._subscripted(token), _ONE),): _ONE}
        if token == "\\frac":
            above = self._argument()
            return _product(above, _inverse(self._argument()))
        if token == "\\sqrt":
            return self._root()
        if token == "\\binom":
            return _binomial(self._argument(), self._argument())
        raise NotAnExpression

    def _root(self) -> Sum:
        degree: Sum = {(): Fraction(2)}
        if self._accept("["):
            degree = self._sum()
            self._expect("]")
        number = value(degree)
        if not number or number.denominator != 1 or number < 2:
            raise NotAnExpression
        radicand = self._base() if self._accept("(") and self._back() else self._argument()
        return _power(radicand, {(): 1 / number})

    def _back(self) -> bool:
        self._at -= 1
        return True

    def _argument(self) -> Sum:
        r"""What a command takes: a group, or one token, of a number one digit: `\frac12`."""
        if self._next.isdigit() and len(self._next) > 1:
            digits = self._next
            self._tokens[self._at] = digits[1:]
            return _constant(Fraction(digits[0]))
        return self._base()

    def _subscripted(self, token: str) -> str:
        if not self._accept("_"):
            return token
        if self._accept("{"):
            inner = ""
            while self._next and self._next != "}":
                inner += self._take()
            self._expect("}")
        else:
            inner = self._take()
        if not inner or not re.fullmatch(r"[\w\\ ,]+", inner):
            raise NotAnExpression
        return f"{token}_{{{inner}}}"


def _constant(number: Fraction) -> Sum:
    return {(): number} if number else {}


def _inverse(sum_: Sum) -> Sum:
    if not sum_:
        raise NotAnExpression
    return _power(sum_, {(): Fraction(-1)})


def _factorial(sum_: Sum) -> Sum:
    number = value(sum_)
    if number is None:
        return {((f"({write(sum_)})!", _ONE),): _ONE}
    if number.denominator != 1 or number < 0:
        raise NotAnExpression
    if number > 150:
        raise TooLarge
    return {(): Fraction(math.factorial(number.numerator))}


def _binomial(above: Sum, below: Sum) -> Sum:
    n, k = value(above), value(below)
    if n is None or k is None:
        return {((rf"\binom{{{write(above)}}}{{{write(below)}}}", _ONE),): _ONE}
    if n.denominator != 1 or k.denominator != 1 or not 0 <= k or n < 0:
        raise NotAnExpression
    if n > 300:
        raise TooLarge
    return _constant(Fraction(math.comb(n.numerator, k.numerator)))
