"""Readers of single answers: choices, numbers in all their spellings, times, ratios, measures, expressions."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from branchwise.answers import expression, sums, words
from branchwise.answers.form import Form, Piece
from branchwise.answers.notation import END, UPRIGHT, without_marks


def integer(piece: Piece) -> Form | None:
    return Form("number", str(int(piece.text))) if re.fullmatch(r"-?\d{1,40}", piece.text) else None


_CHOICE = re.compile(
    r"(?:\(\s?(?P<round>[A-Ja-h])\s?\)(?=[\s:.]|$)|(?P<bare>[A-J])(?:\s?\)|\s-(?=\s[a-zA-Z]{3})|[.:](?=\s|$)|$)|(?P<low>[a-h])\))(?P<rest>.*)",
    re.DOTALL,
)
_CALLED = re.compile(
    r"(?:the )?(?:correct |right )?(?:(?:answer )?(?:option|choice)|letter|answer)(?: is)?\s?:?\s?\(?"
    r"(?P<letter>[A-Ja-j])(?![a-zA-Z])\)?"
    r"(?P<rest>(?:\s?[):.].*)?)", re.IGNORECASE | re.DOTALL,
)  # fmt: skip
_PRODUCT = re.compile(r"\s?(?:[-+*/^=<>(]|\\(?:cdot|times|leq|geq|neq|cup|cap|in)(?![a-z]))")
_MORE = re.compile(r"\s?(?:,|and\b|or\b|&)\s?\(?[A-Ja-j]\b")


def choice(piece: Piece) -> Form | None:
    """(A), A., "option A", "A) 5"; its text is the letter, its item what stands beside it."""
    match = _CALLED.fullmatch(piece.bare)
    if match is not None:
        letter = match["letter"]
    elif (match := _CHOICE.fullmatch(piece.bare)) is not None:
        letter = match["round"] or match["bare"] or match["low"]
    if match is None or _PRODUCT.match(match["rest"]) or _MORE.match(match["rest"]):
        return None
    rest = match["rest"].strip(" ).:-")
    return Form("choice", letter.upper(), (piece.read(rest),) if rest and piece.depth else ())


def in_words(piece: Piece) -> Form | None:
    """Thirty-five dollars."""
    found = words.number_words(piece.bare) if words.may_be_number(piece.bare) else None
    if found is None:
        return None
    number, rest = Form("number", str(found[0])), found[1]
    return _measured(number, rest) if rest else number


_CLOCK = re.compile(
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d\d))?\s?(?:(?P<half>[aApP])\.?\s?[mM]\b\.?|o'?clock\b)?"
    r"(?:\s?(?:on|in|tomorrow|today|the|at|hours|sharp)\b[^\d]*)?"
)


def clock(piece: Piece) -> Form | None:
    """5:30, 5 p.m.; where nothing is said the afternoon is meant, as one form cannot be both halves of the day."""
    match = _CLOCK.fullmatch(piece.bare)
    if not match or not (match["minute"] or match["half"]):
        return None
    if int(match["hour"]) > 24 or int(match["minute"] or 0) > 59:
        return None
    half = match["half"].lower() + "m" if match["half"] else ""
    time = str(int(match["hour"])) + (f":{match['minute']}" if match["minute"] else "")
    told = half == "am" or (half and not match["minute"])
    return Form("clock", f"{time} {half}" if told else time, (), frozenset({half} - {""}), whole=time)


_RATIO = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)\s?(?::|to\b)\s?(\d{1,12}(?:\.\d{1,9})?)")


def ratio(piece: Piece) -> Form | None:
    """3:4, 3 to 4; no fraction, but equal to one when it is graded."""
    match = _RATIO.fullmatch(piece.bare)
    if not match or not Fraction(match[2]):
        return None
    value = Fraction(match[1]) / Fraction(match[2])
    return Form("ratio", f"{value.numerator}:{value.denominator}")


_BASED = re.compile(
    r"([0-9A-F]{1,40}(?:\.[0-9A-F]{1,40})?)\s?(?:_\s?\{?\s?([0-9a-z]{1,12})\s?\}?"
    r"|\(?(?:in )?base[ -]([0-9a-z]{1,12})\)?)"
)


def based(piece: Piece) -> Form | None:
    """2516_8: digits in a base."""
    match = _BASED.fullmatch(piece.bare)
    if not match:
        return None
    base = match[2] or match[3]
    number = Fraction(base) if base.isdigit() else (words.number_words(base) or (None,))[0]
    return None if number is None else Form("based", f"{match[1].lstrip('0') or '0'}_{number}", whole=match[1])


_BARRED = re.compile(r"(-?)(\d{0,40})\.(\d{0,40})\\(?:overline|bar|dot)\s?\{?\s?(\d{1,40})\s?\}?")
_ROUND = re.compile(r"(-?)(\d{0,40})\.(\d{0,40})\((\d{1,40})\)")
_SAID = re.compile(r"(-?)(\d{0,40})\.()(\d)\s?\(?(?:repeating|recurring)\)?")
_DOTTED = re.compile(r"(-?)(\d{0,40})\.(\d{0,6}?)(\d{1,6}?)\4{2,9}\d{0,5}\s?\.\.\.")


def repeating(piece: Piece) -> Form | None:
    r"""0.1\overline{6}, 0.1666..., 0.1(6)"""
    match = next(filter(None, (pattern.fullmatch(piece.bare) for pattern in (_BARRED, _DOTTED, _ROUND, _SAID))), None)
    if not match:
        return None
    sign, whole, fixed, period = match.groups()
    number = Fraction(int((whole or "0") + fixed), 10 ** len(fixed))
    number += Fraction(int(period), 10 ** len(fixed) * (10 ** len(period) - 1))
    return Form("number", str(-number if sign else number))


_THOUSANDS = re.compile(r"(?<![\d.])(?<!\d,)\d{1,3}(?:,\d{3})+(?!\d|,\d)")


def join_thousands(text: str, *, bracketed: bool = False) -> str:
    """1,234 as one number; but 100,200,300 are three, and so is what a bracket holds."""

    def joined(match: re.Match[str]) -> str:
        groups = match[0].split(",")
        several = len(groups) > 2 and all(len(group) == 3 and group[0] != "0" == group[2] for group in groups)
        return match[0] if several and not bracketed else "".join(groups)

    return _THOUSANDS.sub(joined, text) if "," in text else text


_LEXEME = re.compile(
    rf"(?P<upright>{UPRIGHT}[^{END}]*{END})|(?P<word>(?<![a-zA-Z\\])[a-zA-Z]+\.?)"
    r"|(?P<degree>\^\s?(?:\\circ(?![a-zA-Z])|\{\s?\\circ\s?\}))|(?P<power>\^\s?(?:\{\s?-?\d\s?\}|-?\d))"
    r"|(?P<sign>[%$€£¥])"
    r"|(?P<joint>[/-])|(?P<space>\s+)|(?P<other>.)",
    re.DOTALL,
)
_MONEY = {"$": "$", "€": "euro", "£": "pound", "¥": "yen", "EUR": "euro", "GBP": "pound", "Rs": "rupee", "Rs.": "rupee"}
_ALONE = re.compile(r"[mgL]\s?(?:\^\s?\{?\s?[23]\s?\}?)?\s?")  # italics where a unit is meant
_PRICE = re.compile(r"(-?)\s?([$€£¥]|US ?\$|USD|EUR|GBP|Rs\.?)\s?(?=[-.\d\\(])")
_MEASURED = ("number", "expression", "clock")


def measure(piece: Piece) -> Form | None:
    """A number with words behind it, or money in front: 5 red balls, 45 mph, $1,234.50, 50%, 5 thousand."""
    text = join_thousands(piece.text)
    if not piece.depth:
        return None
    if price := _PRICE.match(text):
        found = piece.read(price[1] + text[price.end() :])
        return replace(found, units=found.units | {_MONEY.get(price[2], "$")}) if found.kind in _MEASURED else None
    begin = _tail(text)
    head = text[:begin]
    if begin == len(text) or not any(letter.isdigit() for letter in head) or head.rstrip()[-1:] in "+-*/^=_<>":
        return None
    found = piece.read(head)
    return _measured(found, text[begin:]) if found.kind in _MEASURED else None


def _tail(text: str) -> int:
    """Where the words behind a number begin; a letter that touches it, as in 5x, is a variable."""
    begin = len(text)
    for lexeme in reversed(list(_LEXEME.finditer(text))):
        if lexeme["other"]:
            break
        if lexeme["word"]:
            touches = text[lexeme.start() - 1 : lexeme.start()]
            if (touches.isalnum() or touches in ("}", ")")) and not words.is_unit(lexeme[0].rstrip("."), upright=False):
                break
        if not (lexeme["space"] or lexeme["joint"] or lexeme["power"]):
            begin = lexeme.start()
    return begin


def _measured(found: Form, rest: str) -> Form | None:
    """A number with what stands behind it."""
    named: list[tuple[str, bool]] = []
    units: set[str] = set()
    for lexeme in _LEXEME.finditer(rest):
        if lexeme["upright"]:
            named += [(word, True) for word in re.findall("[a-zA-Z]+", lexeme[0])]
            if re.search(r"\d", lexeme[0]):
                return None
        elif lexeme["word"]:
            named.append((lexeme[0].rstrip("."), found.kind == "number" and _ALONE.fullmatch(rest) is not None))
        elif lexeme["degree"]:
            units.add("deg")
        elif lexeme["sign"]:
            units.add(_MONEY.get(lexeme[0], lexeme[0]))
        elif lexeme["power"]:
            if not named:
                return None
            units.add({"2": "sq", "3": "cu"}.get(re.sub(r"\D", "", lexeme[0]), "power"))
        elif lexeme["other"] and lexeme[0] not in "(),":
            return None
    if "/" in rest and all(words.is_unit(word, upright=True) for word, _ in named):
        named = [(word, True) for word, _ in named]  # km/h, m/s
    known = words.quantity(named)
    if known is None or (known[0] != 1 and found.kind != "number"):
        return None
    text = found.text if known[0] == 1 else str(Fraction(found.text) * known[0])
    return replace(found, text=text, units=found.units | units | known[1])


_SPELLED = re.compile(r"(?<![a-zA-Z\\])(pi|sqrt|infinity|infty|sin|cos|tan|cot|sec|csc|ln|log|exp)(?![a-zA-Z])")
_CALLS = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|arc[a-z]{3}|ln|log|exp)(?![a-zA-Z])")
_NO_PRODUCT = re.compile(  # names of points, and words
    r"(?<![a-zA-Z\\])(?:[A-Z]{2}|(?:[nN]o|[oO]n|so|is|if|of|or|at|in|to)(?![a-zA-Z])|(?=[a-zA-Z]{0,20}[aeiou])[a-zA-Z]{3})"
)
_TIMES = re.compile(r"(?<=\d)\s?[xX]\s?(?=10\s?\^)")
_EXPONENT = re.compile(r"(?<![a-zA-Z.\d])(\d{1,60}\.?\d{0,60}|\.\d{1,60})[eE]([-+]?)(\d{1,4})(?!\d)")
_DECIMAL = re.compile(r"\s?-?\s?(\d*)\.(\d+)\s?")


def expression_(piece: Piece) -> Form | None:
    """A number or a formula that the small algebra reads."""
    if re.search(f"{UPRIGHT}[^{END}]*[a-zA-Z]{{2}}", piece.text):
        return None
    text = _SPELLED.sub(
        lambda match: rf"\{match[1].replace('infinity', 'infty')} ", join_thousands(without_marks(piece.text))
    )
    if _NO_PRODUCT.search(text):
        return None
    text = _EXPONENT.sub(lambda match: f"{match[1]}*10^{{{match[2].strip('+')}{match[3]}}}", _TIMES.sub("*", text))
    try:
        found = expression.parse(re.sub(r"\{\s?\+", "{", text))
        number = sums.value(found)
        written = sums.write(found)
    except sums.TooLarge:
        letters = re.sub(r"\\[a-zA-Z]+", "", text)
        return None if re.search("[a-zA-Z]", letters) else Form("huge", re.sub(r"\s", "", piece.bare))
    except (sums.NotAnExpression, ArithmeticError):
        return None
    if number is None:
        letters = text.strip()
        written = letters if letters.isalpha() else written  # in their order: they may be a name
        return Form("expression", written, whole=text.strip() if _CALLS.search(text) else written)
    decimal = _DECIMAL.fullmatch(text)
    if decimal is None:
        return Form("number", written)
    return Form("number", written, whole=text.strip(), decimals=len((decimal[1] + decimal[2]).lstrip("0")))
