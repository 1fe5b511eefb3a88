"""Text of a formula, in LaTeX or typed, as a sum of the small algebra."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from branchwise.answers import sums
from branchwise.answers.sums import NotAnExpression, Sum, TooLarge

_MAX_DEPTH = 24

_TOKEN = re.compile(r"\\[a-zA-Z]+|\d+\.?\d*|\.\d+|[a-zA-Z]|\*\*|[-+*/^_(){}\[\]!|]|\s+")
_VARIABLE = re.compile(
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|vartheta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|upsilon|phi"
    "|chi|psi|omega|pi|infty|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Phi|Psi|Omega|ell"
)


_FUNCTIONS = frozenset(
    (r"\sin", r"\cos", r"\tan", r"\cot", r"\sec", r"\csc", r"\arcsin", r"\arccos", r"\arctan", r"\ln", r"\log", r"\exp")
)


@lru_cache(maxsize=4096)
def parse(text: str) -> Sum:
    """Read a sum. NotAnExpression for anything else; TooLarge for a number that nobody writes out."""
    return _Parser(text).whole()


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

    def _sum(self) -> Sum:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise NotAnExpression
        sign = self._accept("+", "-")
        total = sums.scaled(self._product(), Fraction(-1 if sign == "-" else 1))
        while sign := self._accept("+", "-"):
            total = sums.plus(total, sums.scaled(self._product(), Fraction(-1 if sign == "-" else 1)))
        self._depth -= 1
        return total

    def _product(self) -> Sum:
        total, mixed = self._factor()
        while True:
            sign = self._accept("*", "/")
            if sign:
                negative = self._accept("-")
                factor, mixed = self._factor()
                factor = sums.scaled(factor, Fraction(-1)) if negative else factor
                total = sums.product(total, sums.inverse(factor) if sign == "/" else factor)
            elif mixed and self._starts_fraction():  # 1\frac{1}{2} and "1 1/2" are sums
                whole = total
                total, mixed = self._mixed(), False
                total = sums.plus(whole, total)
            elif self._starts_factor():
                factor, mixed = self._factor()
                total = sums.product(total, factor)
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
            part = sums.constant(Fraction(int(above), int(below)))
        else:
            part = self._factor()[0]
        if (sums.value(part) or 0) <= 0:
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
                found = sums.factorial(found)
            elif self._accept("^", "**"):
                found, plain = sums.power(found, self._exponent()), False
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
            return sums.scaled({(): Fraction(int(self._take()))}, sign)
        return sums.scaled(self._base(), sign)

    def _base(self) -> Sum:
        token = self._take()
        if token[:1].isdigit() or token[:1] == ".":
            if len(token) > 300:
                raise TooLarge
            return sums.constant(Fraction(token))
        for opening, closing in (("(", ")"), ("{", "}"), ("[", "]")):
            if token == opening:
                found = self._sum()
                self._expect(closing)
                return found
        if token.isalpha() or _VARIABLE.fullmatch(token[1:]):
            return {((self._subscripted(token), sums.ONE),): sums.ONE}
        if token in _FUNCTIONS:
            return self._function(token)
        if token == "|":
            found = self._sum()
            self._expect("|")
            return sums.absolute(found)
        if token == "\\frac":
            above = self._argument()
            return sums.product(above, sums.inverse(self._argument()))
        if token == "\\sqrt":
            return self._root()
        if token == "\\binom":
            return sums.binomial(self._argument(), self._argument())
        raise NotAnExpression

    def _function(self, token: str) -> Sum:
        r"""`\sin^2 x` is a power; without brackets a function takes the product that follows."""
        name = self._subscripted(token)
        self._accept(" ")  # \log_2 8
        degree = self._exponent() if self._accept("^", "**") else sums.constant(sums.ONE)
        if (sums.value(degree) or 0) <= 0:
            raise NotAnExpression  # an inverse function
        if self._next in ("(", "{"):
            argument = self._base()
        else:
            argument, _ = self._factor()
            while self._starts_factor() and self._next not in ("(", "[", *_FUNCTIONS):
                argument = sums.product(argument, self._factor()[0])
        return sums.power(sums.function(name, argument), degree)

    def _root(self) -> Sum:
        degree: Sum = {(): Fraction(2)}
        if self._accept("["):
            degree = self._sum()
            self._expect("]")
        number = sums.value(degree)
        if not number or number.denominator != 1 or number < 2:
            raise NotAnExpression
        radicand = self._base() if self._accept("(") and self._back() else self._argument()
        return sums.power(radicand, {(): 1 / number})

    def _back(self) -> bool:
        self._at -= 1
        return True

    def _argument(self) -> Sum:
        r"""What a command takes: a group, or one token, of a number one digit: `\frac12`."""
        if self._next.isdigit() and len(self._next) > 1:
            digits = self._next
            self._tokens[self._at] = digits[1:]
            return sums.constant(Fraction(digits[0]))
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
