"""One form for every way to write an answer: pure string work, so that most equal answers meet without algebra."""

from __future__ import annotations

import re
from fractions import Fraction

MAX_LENGTH = 400  # longer answers are only stripped: nobody writes the same long answer twice
_MAX_DIGITS = 60
_MAX_EXPONENT = 40
_MAX_DEPTH = 6
_MAX_ROUNDS = 4

_UNIT = re.compile(
    r"(?:deg(?:ree)?|percent|dollar|cent|euro|usd|pound|unit|square|cubic|sq|[mcdk]m|(?:centi|kilo|milli)?met(?:er|re)"
    r"|inch(?:es)?|foot|feet|ft|yard|mile|[mk]ph|[mk]g|(?:kilo|milli)?gram|ounce|lb|ton|lit(?:er|re)|ml"
    r"|second|sec|minute|min|hour|hr|day|week|month|year|per|people|time|way|point)s?"
)
_MAGNITUDE = re.compile(r"hundred|thousand|(?:[mb]|tr)illion|dozen|[ap]\.?m|pi|or|and|to|mod|base")

_WRAPPED = re.compile(
    r"^(?:\$\$?(.*?)\$?\$|\\\((.*)\\\)|\\\[(.*)\\\]|\*\*(.*)\*\*|\\(?:boxed|fbox)\{(.*)\})$", re.DOTALL
)
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}")
_TRAILING_TEXT = re.compile(r"(?<=[\d}.)])\s*\\(?:text|textrm|mathrm|mbox)\s*\{([^{}]*)\}(?:\^\{?\d\}?)?$")
_TRAILING_WORDS = re.compile(r"^(?P<number>[-+]?[\d.,/]*\d)\s*(?P<words>[a-zA-Z./ ]+)(?:\^\{?\d\}?)?$")
_MIXED = re.compile(r"(?<![\d.])(\d+)\s+(\d+)/(\d+)(?![\d.])")
# A space between two digits stays: "3 4" is not 34.
_SPACES = re.compile(r"(?<!\\)\\[,;:!> ]|\\q?quad(?![a-zA-Z])|~|(?<!\d)\s+|\s+(?!\d)")
_DROPPED = re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|\^\{?\\circ\}?|\\circ(?![a-zA-Z])|°|\\?\$|\\?%|[€£]")
_SHORT_FRACTION = re.compile(r"\\frac\s*([0-9])\s*(?:([0-9])|(?=\{))")
_SHORT_ROOT = re.compile(r"\\sqrt\s*([0-9a-zA-Z])")
_SYNONYMS = (
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\le(?![a-zA-Z])"), r"\\leq"),
    (re.compile(r"\\ge(?![a-zA-Z])"), r"\\geq"),
    (re.compile(r"\\neq?(?![a-zA-Z])"), r"\\neq"),
    (re.compile(r"\\(?:lbrace|lbrack)(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace|rbrack)(?![a-zA-Z])"), r"\\}"),
    (re.compile("[\N{MINUS SIGN}\N{EN DASH}]"), "-"),
)
_NAMED = re.compile(r"^[a-zA-Z](?:\([a-zA-Z]\))?(?:=|\\in(?![a-zA-Z]))")
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:(?:,|\{,\})\d{3})+(?!\d)")
_CHOICE = re.compile(r"^\(([A-J])\)$|^([A-J])\)$")
_DECIMAL = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_NUMBER = re.compile(rf"({_DECIMAL})(?:(?:[eE]|\\times10\^|\\cdot10\^)\{{?([-+]?\d{{1,3}})\}}?)?")
_RATIO = re.compile(rf"({_DECIMAL})/({_DECIMAL})")
_FRACTION = re.compile(rf"([-+]?)(\d*)\\frac\{{({_DECIMAL})\}}\{{({_DECIMAL})\}}")
_BRACKETED = re.compile(r"(\\\{|[(\[])(.*)(\\\}|[)\]])$", re.DOTALL)


def canonical(answer: str) -> str:
    """Return the canonical form of an answer: equal strings mean equal answers, different strings may still be equal.

    Numbers (decimals, fractions, mixed numbers, powers of ten, thousands separators) become an integer or a reduced
    `p/q`; tuples and lists are treated item by item, and sets `\\{...\\}` are sorted. Dollar, percent and degree signs
    and units are dropped: 50% is 50, never 1/2. `x = 5` is 5, `(C)` is C, words lose their case.
    """
    text = answer.strip()
    if len(text) > MAX_LENGTH:
        return text
    for _ in range(_MAX_ROUNDS):  # one clean-up may uncover another
        form = _form(text, _MAX_DEPTH)
        if form == text:
            break
        text = form
    return text


def _form(text: str, depth: int) -> str:
    text = _clean(text)
    number = _number(text)
    if number is not None or depth == 0:
        return number or text
    parts = _split(text)
    if parts and len(parts) > 1:
        return ", ".join(_form(part, depth - 1) for part in parts)  # with a space: "1,234" is one number
    if bracketed := _BRACKETED.match(text):
        opening, inner, closing = bracketed.groups()
        parts = _split(inner)
        if parts and len(parts) > 1:
            forms = [_form(part, depth - 1) for part in parts]
            return opening + ",".join(sorted(set(forms)) if opening == "\\{" else forms) + closing
    if choice := _CHOICE.match(text):
        return choice[1] or choice[2]
    return text.casefold() if len(text) > 1 and text.isalpha() else text


def _clean(text: str) -> str:
    """Remove what only shows: wrappers, fonts, spaces, units, and the name in front of `=`."""
    text = text.strip()
    while match := _WRAPPED.match(text):
        text = next((group for group in match.groups() if group is not None), "").strip()
    for pattern, replacement in _SYNONYMS:
        text = pattern.sub(replacement, text)
    text = _TRAILING_TEXT.sub(lambda match: "" if _is_unit(match[1]) else match[0], text)
    text = _TEXT.sub(r" \1 ", text)
    text = _DROPPED.sub("", text).strip().rstrip(".").rstrip()
    if (words := _TRAILING_WORDS.match(text)) and all(_UNIT.fullmatch(word) for word in _words(words["words"])):
        text = words["number"]
    # Inside brackets a comma separates items: (1,234) is a pair. So does a comma with a space.
    if not text.startswith(("(", "[", "\\{")):
        text = _THOUSANDS.sub(lambda match: re.sub(r"\{?,\}?", "", match[0]), text.replace("\\!", ""))
    text = _SPACES.sub("", _MIXED.sub(r"\1\\frac{\2}{\3}", text))
    text = _SHORT_FRACTION.sub(lambda match: f"\\frac{{{match[1]}}}" + (f"{{{match[2]}}}" if match[2] else ""), text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    text = _NAMED.sub("", text, count=1) if text.count("=") <= 1 else text
    return text


def _words(text: str) -> list[str]:
    return [word.strip(".") for word in re.split(r"[\s/]+", text.strip(" ./").lower())]


def _is_unit(text: str) -> bool:
    """After a number, any text is a unit, unless it is a word that changes the number."""
    return not any(_MAGNITUDE.fullmatch(word) for word in _words(text))


def _number(text: str) -> str | None:
    """The reduced form of a plain number, or None."""
    if len(text) > _MAX_DIGITS:
        return None
    if match := _NUMBER.fullmatch(text):
        exponent = int(match[2] or 0)
        return str(Fraction(match[1]) * Fraction(10) ** exponent) if abs(exponent) <= _MAX_EXPONENT else None
    if match := _RATIO.fullmatch(text):
        below = Fraction(match[2])
        return str(Fraction(match[1]) / below) if below else None
    if match := _FRACTION.fullmatch(text):
        above, below = Fraction(match[3]), Fraction(match[4])
        if not below or (match[2] and (above < 0 or below < 0)):
            return None
        value = int(match[2] or 0) + above / below  # 1\frac{1}{2} is a mixed number
        return str(-value if match[1] == "-" else value)
    return None


def _split(text: str) -> list[str] | None:
    """The parts between the commas outside all brackets; None where the brackets do not pair up."""
    parts, depth, begin = [], 0, 0
    for position, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if depth < 0:
            return None
        if letter == "," and depth == 0:
            parts.append(text[begin:position])
            begin = position + 1
    parts.append(text[begin:])
    return parts if depth == 0 else None
