"""What an answer is: a number, a list, an interval, a choice, ... with a text that equal answers share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from branchwise.answers import expression, words
from branchwise.answers.notation import END, UPRIGHT, clean, is_blank

MAX_LENGTH = 400  # longer answers are only stripped: nobody writes the same long answer twice
_MAX_DEPTH = 5
_MAX_ITEMS = 40

Kind = Literal["blank", "number", "expression", "list", "set", "tuple", "interval", "union", "matrix", "choice", "relation",
               "ratio", "clock", "based", "huge", "text"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Form:
    """An answer, read. text: its canonical form.

    items: of a list, set, tuple, matrix or union, and the two ends of an interval
    units: what it is measured in, as far as it says so
    name: what stands before "=": `x` of "x = 5"
    whole: text for computer algebra, the name included
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


@lru_cache(maxsize=4096)
def read(answer: str) -> Form:
    """Read an answer; never fails: what is not understood is text. Work is bounded by MAX_LENGTH."""
    answer = answer.strip()
    if len(answer) > MAX_LENGTH:
        return Form("text", answer)
    return _read(clean(answer), _MAX_DEPTH)


def is_answer(text: str) -> bool:
    """Whether it says anything: more than white space and delimiters."""
    return bool(text.strip()) and read(text).kind != "blank"


_EMPTY = re.compile(r"(?:(?:there (?:is|are) )?no (?:real |integer |such |possible |valid )?(?:solutions?|roots?|values?)"
                    r"|(?:the )?empty set|\\\{\s*\\\}|\\emptyset)", re.IGNORECASE)  # fmt: skip
_REALS = re.compile(r"(?:\\reals|(?:the )?(?:set of )?(?:all )?(?:the )?real numbers|all reals)", re.IGNORECASE)
_UPRIGHT_MARKS = re.compile(f"[{UPRIGHT}{END}]")
_CHOICE = re.compile(
    r"(?:(?:the )?(?:correct |right )?(?:option|choice|answer|letter)s?(?: is)?[ :]*)?"
    r"(?:\(\s*(?P<round>[A-Ja-h])\s*\)(?=\s|$)|(?P<bare>[A-J])(?:\s*\)|[.:](?=\s|$)|$))(?P<rest>.*)",
    re.DOTALL,
)
_NAMED_CHOICE = re.compile(r"(?:option|choice|letter)\s+(?P<letter>[A-Ja-j])(?![a-zA-Z])\.?(?:\s*[):.].*)?", re.I | re.DOTALL)


def _read(text: str, depth: int) -> Form:
    text = _trimmed(text)
    bare = " ".join(_UPRIGHT_MARKS.sub(" ", text).split())
    if _EMPTY.fullmatch(bare):
        return Form("set", r"\emptyset")
    if _REALS.fullmatch(bare):
        return _interval("(", _END["-"], _END["+"], ")")
    if is_blank(bare):
        return Form("blank", "")
    for reader in _READERS:
        if (found := reader(text, bare, depth)) is not None:
            return found
    return _text(bare)


def _trimmed(text: str) -> str:
    """Without hedges in front, stops behind, and a pair of braces around everything."""
    while True:
        before = text
        text = words.without_hedges(text.strip()).strip(" ;,:")
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        if text[:1] == "{" and text[-1:] == "}" and _closing(text) == len(text) - 1:
            text = text[1:-1]
        if text[:1] == UPRIGHT and text.find(END) == len(text) - 1:
            text = text[1:-1]
        if text == before:
            return text


def _text(bare: str) -> Form:
    """Words lose their case, and mathematics its spaces."""
    if re.fullmatch(r"[a-zA-Z][a-zA-Z' .,-]*", bare) and re.search("[a-zA-Z]{3}|^(?:[nN]o|[oO]n|[oO]k)$", bare):
        if not re.fullmatch("[A-Z]{2,}", bare) or len(bare) > 3:
            bare = bare.casefold()
        return Form("text", bare.strip())
    tight = re.sub(r"(?<![a-zA-Z0-9]) +|(?<!\d) +(?![a-zA-Z])| +(?![a-zA-Z0-9])", "", bare)
    tight = re.sub(r"([\^_])\{(\w)\}", r"\1\2", tight)
    return Form("text", tight, whole=tight)


# --- one reader for each kind: the form, or None where the text is something else -------------------------------


def _integer(text: str, bare: str, depth: int) -> Form | None:
    return Form("number", str(int(text))) if re.fullmatch(r"-?\d{1,40}", text) else None


def _choice(text: str, bare: str, depth: int) -> Form | None:
    if match := _NAMED_CHOICE.fullmatch(bare):
        return Form("choice", match["letter"].upper())
    if (match := _CHOICE.fullmatch(bare)) and not re.match(r"\s*[-+*/^=<>(]|\s*\\[cl]", match["rest"]):
        letter = (match["round"] or match["bare"]).upper()
        more = re.match(r"\s*(?:,|and\b|or\b|&)\s*\(?[A-Ja-j]\b", match["rest"])
        rest = match["rest"].strip(" ).:")
        return None if more else Form("choice", letter, (_read(rest, depth - 1),) if rest and depth else ())
    return None


_END = {
    "-": Form("expression", r"-\infty", whole=r"-\infty"),
    "+": Form("expression", r"\infty", whole=r"\infty"),
}


def _plus_minus(text: str, bare: str, depth: int) -> Form | None:
    if text.count(r"\pm") != 1 or r"\mp" in text or not depth:
        return None
    both = [_read(text.replace(r"\pm", sign).replace("= +", "= "), depth - 1) for sign in ("+", "-")]
    return _list(both)


_MATRIX = re.compile(r"\\begin\s*\{(\w?)matrix\}(.*)\\end\s*\{\1matrix\}", re.DOTALL)


def _matrix(text: str, bare: str, depth: int) -> Form | None:
    match = _MATRIX.fullmatch(text)
    if not match or not depth:
        return None
    rows = [row for row in match[2].split("\\\\") if row.strip()]
    table = [[_read(cell, depth - 1) for cell in re.split(r"(?<!\\)&", row)] for row in rows]
    kind = match[1] if match[1] in ("v", "V") else ""
    lines = [Form("tuple", "[" + ",".join(cell.text for cell in row) + "]", tuple(row)) for row in table]
    return Form("matrix", kind + "[" + ",".join(line.text for line in lines) + "]", tuple(lines))


_NUMBER_WORD = re.compile(r"(?:negative |minus |a )?(?:" + "|".join(
    ("zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen",
     "eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|half|dozen")
) + r")\b", re.IGNORECASE)  # fmt: skip


def _in_words(text: str, bare: str, depth: int) -> Form | None:
    """Thirty-five dollars."""
    if not _NUMBER_WORD.match(bare) or not (found := words.number_words(bare)):
        return None
    number, rest = found
    return _measured(Form("number", str(number)), rest) if rest else Form("number", str(number))


_THOUSANDS = re.compile(r"(?<![\d.])(?<!\d,)\d{1,3}(?:,\d{3})+(?!\d|,\d)")


def _listed(text: str, bare: str, depth: int) -> Form | None:
    text = _THOUSANDS.sub(_joined, text)
    parts = split(text, _SEPARATORS)
    if parts is None or len(parts) < 2 or not depth or len(parts) > _MAX_ITEMS:
        return None
    parts = [re.sub(r"^(?:and|or)\b\s*|^&\s*", "", part.strip(" " + UPRIGHT + END)) for part in parts]
    items = [_read(part, depth - 1) for part in parts if part.strip()]
    if len(items) < 2 or any(item.kind == "blank" for item in items):
        return items[0] if len(items) == 1 else None
    if all(item.kind in ("interval", "union") for item in items) and re.search(r"\bor\b", bare):
        return _union(items)
    return _list(items)


def _joined(match: re.Match[str]) -> str:
    """One number; but 100,200,300 are three."""
    groups = match[0].split(",")
    several = len(groups) > 2 and all(len(group) == 3 and group[0] != "0" and group[2] == "0" for group in groups)
    return match[0] if several else "".join(groups)


def _list(items: list[Form]) -> Form:
    """In no order. Names are dropped where all are the same, or only the first one has any: x = 5, -2."""
    names = [item.name for item in items]
    if len(set(names)) > 1 and any(names[1:]):
        items = [_equation(item) if item.name else item for item in items]
    flat = tuple(part for item in items for part in (item.items if item.kind == "list" else (item,)))
    units = frozenset().union(*(item.units for item in flat))
    text = ", ".join(sorted(item.text for item in flat))
    return Form("list", text, flat, units, names[0] if len(set(names)) == 1 else "")


def _equation(item: Form) -> Form:
    """A named value whose name matters; it keeps the value."""
    text = f"{item.name}={item.text}"
    return Form("relation", text, (replace(item, name=""),), item.units, whole=text)


_CUP = re.compile(r"\\cup(?![a-zA-Z])|(?<=[\])])\s*U\s*(?=[\[(])|\bunion\b")


def _united(text: str, bare: str, depth: int) -> Form | None:
    parts = _CUP.split(text)
    if len(parts) < 2 or not depth:
        return None
    name = _NAME.match(parts[0])
    parts[0] = parts[0][name.end() :] if name else parts[0]
    return _union([_read(part, depth - 1) for part in parts])


def _union(items: list[Form]) -> Form:
    parts = sorted((part for item in items for part in (item.items if item.kind == "union" else (item,))),
                   key=lambda item: (item.items[0].number if item.items and item.items[0].number is not None else -math.inf, item.text))  # fmt: skip
    return Form("union", r"\cup".join(part.text for part in parts), tuple(parts))


_BRACKETED = re.compile(r"(\\\{|[(\[])(.*)(\\\}|[)\]])", re.DOTALL)


def _bracketed(text: str, bare: str, depth: int) -> Form | None:
    match = _BRACKETED.fullmatch(text)
    if not match or not depth:
        return None
    opening, inner, closing = match.groups()
    if (opening == r"\{") != (closing == r"\}"):
        return None
    if ", " in inner or re.search(r"(?<![\d.])\d{1,3}(?:,\d{3})*,0\d\d(?!\d)", inner):
        inner = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), inner)
    parts = split(inner, ",;")
    if parts is None or len(parts) > _MAX_ITEMS:
        return None
    if len(parts) == 1:
        if opening + closing == "()" or opening == r"\{":
            return None if re.search(r"(?<!\\)[|:]|\\mid", inner) else _one_of(opening, _read(inner, depth - 1))
        return _read(inner, depth - 1) if opening + closing == "[]" else None
    items = [_read(part, depth - 1) for part in parts]
    if any(item.kind == "blank" for item in items):
        return None
    if opening == r"\{":
        unique = tuple(sorted(dict.fromkeys(items), key=lambda item: item.text))
        return Form("set", ", ".join(map(_inner, unique)), unique)
    if len(items) == 2 and opening + closing != "()":
        return _interval(opening, items[0], items[1], closing)
    return Form("tuple", opening + ",".join(map(_inner, items)) + closing, tuple(items))


def _inner(item: Form) -> str:
    r"""An item of a tuple or a set; a set within keeps its braces."""
    return rf"\{{{item.text}\}}" if item.kind == "set" and item.items else item.text


def _one_of(opening: str, item: Form) -> Form:
    return item if opening == "(" or item.kind in ("number", "expression", "text", "list") else Form("set", item.text, (item,))


def _interval(opening: str, low: Form, high: Form, closing: str) -> Form:
    low, high = (replace(end, units=frozenset()) for end in (low, high))
    if opening + closing == "()":  # or a point: only the question knows
        kind: Kind = "interval" if "infty" in low.text + high.text else "tuple"
    else:
        kind = "interval"
    return Form(kind, f"{opening}{low.text},{high.text}{closing}", (low, high))


_CLOCK = re.compile(r"(\d{1,2})(?::(\d\d))?\s*(?:([apAP])\.?\s?[mM]\b\.?|o'?clock)?(.*)", re.DOTALL)


def _clock(text: str, bare: str, depth: int) -> Form | None:
    match = _CLOCK.fullmatch(bare)
    if not match or not (match[2] or match[3]) or int(match[1]) > 24 or int(match[2] or 0) > 59:
        return None
    if match[4].strip() and not re.fullmatch(r"\s*(?:on|in|tomorrow|today|the|at|o'?clock|hours|h)\b[^\d]*", match[4]):
        return None
    half = match[3].lower() + "m" if match[3] else ""
    hour = f"{int(match[1])}:{match[2]}" if match[2] else f"{int(match[1])}"
    # Where nothing is said the question speaks of the afternoon; one form cannot be both halves of the day.
    return Form("clock", hour + (" am" if half == "am" else " pm" if half and not match[2] else ""), (),
                frozenset({half} - {""}), whole=hour)  # fmt: skip


_RATIO = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)\s*(?::|\s+to\s+)\s*(\d{1,12}(?:\.\d{1,9})?)")


def _ratio(text: str, bare: str, depth: int) -> Form | None:
    match = _RATIO.fullmatch(bare)
    if not match or not Fraction(match[2]):
        return None
    ratio = Fraction(match[1]) / Fraction(match[2])
    return Form("ratio", f"{ratio.numerator}:{ratio.denominator}")


_BASED = re.compile(r"([0-9A-F]+(?:\.[0-9A-F]+)?)\s*(?:_\s*\{?\s*([0-9a-z]+)\s*\}?|\(?(?:in )?base[ -]([0-9a-z]+)\)?)")


def _based(text: str, bare: str, depth: int) -> Form | None:
    match = _BASED.fullmatch(bare)
    if not match:
        return None
    base = match[2] or match[3]
    number = (int(base) if base.isdigit() else None) or (words.number_words(base) or (None,))[0]
    return None if number is None else Form("based", f"{match[1].lstrip('0') or '0'}_{number}", whole=match[1])


_NAME = re.compile(
    rf"[{UPRIGHT}]?(?:(?:\\?[a-zA-Z]+'?[ {END}]*)+(?:_(?:\{{[^{{}}]*\}}|\w))?'?\s*(?:\([a-zA-Z, ]*\))?\s*)"
    rf"[{END}]?\s*(?:=(?!=)|\\in(?![a-zA-Z])|:(?!\s*\d+\s*$))\s*"
)


def _named(text: str, bare: str, depth: int) -> Form | None:
    """x = 5; the sides of 3 + 4 = 7 must agree."""
    sides = split(text, "=") if not re.search(r"[<>]|\\(?:leq|geq|neq)", text) else None
    if not depth or sides is None:
        return None
    match = _NAME.match(text)
    if match and len(match[0]) <= 80 and r"\in" not in match[0][:-4].replace(r"\infty", ""):
        rest = text[match.end() :]
        found = _read(rest, depth - 1)
        if found.kind == "blank" or (found.kind in ("relation", "text") and "=" in rest):
            return None
        name = re.sub(rf"[\s{UPRIGHT}{END}=:]|\\in$", "", match[0].strip())
        whole = text if "=" in match[0] else found.whole
        return replace(found, name=found.name or name, whole=whole)
    if len(sides) < 2:
        return None
    forms = [_read(side, depth - 1) for side in sides if side.strip()]
    if all(form.kind == "number" for form in forms) and len({form.text for form in forms}) == 1:
        return forms[-1]
    if len(forms) == 2 and forms[1].kind == "expression" and not forms[1].name and re.fullmatch(r"\\?[a-zA-Z]+", forms[1].text):
        if forms[0].kind == "number" and "infty" not in forms[1].text and r"\pi" != forms[1].text:  # 5 = x
            return replace(forms[0], name=forms[1].text, whole=text)
    return None


_RELATION = re.compile(r"\\leq|\\geq|\\neq|\\approx|<|>|=")
_TURNED = {"<": ">", ">": "<", r"\leq": r"\geq", r"\geq": r"\leq"}


def _relation(text: str, bare: str, depth: int) -> Form | None:
    """Equations and inequalities; those of one letter against numbers are intervals."""
    signs = _RELATION.findall(text)
    if not signs or not depth:
        return None
    sides = _RELATION.split(text)
    if not any(side.strip() for side in sides):
        return None
    forms = [_read(side, depth - 1) if side.strip() else Form("blank", "") for side in sides]
    if len(signs) <= 2 and (found := _solved(signs, forms)):
        return replace(found, whole=text)
    if signs == ["="] and all(form.kind in ("number", "expression") for form in forms):
        difference = expression.minus(*(expression.parse(form.text) for form in forms))
        if expression.variables(difference):
            return Form("relation", expression.write(expression.primitive(difference)[1]) + "=0", whole=text)
    pieces = [forms[0].text]
    for sign, form in zip(signs, forms[1:], strict=True):
        pieces += [sign, form.text]
    return Form("relation", "".join(pieces), whole=text)


def _solved(signs: list[str], forms: list[Form]) -> Form | None:
    """An interval for x > 3 and 1 <= x < 2, two for x \\neq 3."""
    letters = [bool(re.fullmatch(r"\\?[a-zA-Z]+(?:\([a-z]\))?", form.text)) and _constant(form) is None for form in forms]
    if signs in (["<"], [">"], [r"\leq"], [r"\geq"], [r"\neq"]) and letters.count(True) == 1:
        at = letters.index(True)
        end = _constant(forms[1 - at])
        if end is None:
            return None
        sign = signs[0] if at == 0 else _TURNED.get(signs[0], signs[0])
        if sign == r"\neq":
            return _union([_interval("(", _END["-"], end, ")"), _interval("(", end, _END["+"], ")")])
        closed = sign in (r"\leq", r"\geq")
        if sign in ("<", r"\leq"):
            return _interval("(", _END["-"], end, "]" if closed else ")")
        return _interval("[" if closed else "(", end, _END["+"], ")")
    if len(signs) == 2 and letters == [False, True, False]:
        low, high = _constant(forms[0]), _constant(forms[2])
        if signs[0] in (">", r"\geq"):
            low, high, signs = high, low, [_TURNED.get(sign, "") for sign in reversed(signs)]
        if low and high and all(sign in ("<", r"\leq") for sign in signs):
            return _interval("(" if signs[0] == "<" else "[", low, high, ")" if signs[1] == "<" else "]")
    return None


def _constant(form: Form) -> Form | None:
    if form.kind == "number":
        return form
    if form.kind == "expression" and not form.name:
        letters = expression.variables(expression.parse(form.text)) - {r"\pi", "e", r"\infty", r"\sqrt", r"\frac"}
        return None if letters or form.text == "e" else form
    return None


_REPEATING = re.compile(r"(-?)(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?\s*(\d+)\s*\}?")
_DOTTED = re.compile(r"(-?)(\d*)\.(\d*?)(\d{1,6}?)\4{2,}\d{0,5}\s*\.\.\.")


def _repeating(text: str, bare: str, depth: int) -> Form | None:
    match = _REPEATING.fullmatch(bare) or _DOTTED.fullmatch(bare)
    if not match:
        return None
    sign, whole, fixed, period = match.groups()
    number = Fraction(int((whole or "0") + (fixed or "")), 10 ** len(fixed))
    number += Fraction(int(period), 10 ** len(fixed) * (10 ** len(period) - 1))
    return Form("number", str(-number if sign else number))


_LEXEME = re.compile(rf"(?P<upright>[{UPRIGHT}][^{END}]*[{END}])|(?P<word>(?<![a-zA-Z\\])[a-zA-Z]+\.?)|(?P<power>\^\s*(?:\{{\s*-?\d\s*\}}|-?\d|\\circ|\{{\s*\\circ\s*\}}))"
                     r"|(?P<unit>%|\$|[€£¥]|[/-])|\s+|(?P<other>.)", re.DOTALL)  # fmt: skip


def _measure(text: str, bare: str, depth: int) -> Form | None:
    """A number with words behind it, or money in front: 5 red balls, 45 mph, $1,234.50, 50%, 5 thousand."""
    text = _THOUSANDS.sub(_joined, text)
    if match := re.match(r"(-?)\s*([$€£¥])\s*(?=[-.\d\\(])", text):
        found = _read(match[1] + text[match.end() :], depth - 1) if depth else None
        return found and replace(found, units=found.units | {_MONEY[match[2]]}) if found and found.kind in _SCALAR else None
    lexemes = list(_LEXEME.finditer(text))
    begin = len(lexemes)
    while begin and lexemes[begin - 1].lastgroup != "other" and not (
        lexemes[begin - 1]["power"] and begin > 1 and lexemes[begin - 2]["other"] and "circ" not in lexemes[begin - 1][0]
    ):  # fmt: skip
        begin -= 1
    tail = lexemes[begin:]
    while tail and tail[0][0] in "/-":
        tail.pop(0)
    if not tail or not depth:
        return None
    head, rest = text[: tail[0].start()], text[tail[0].start() :]
    if tail[0]["word"] and head[-1:].isalnum() and not words.is_unit(tail[0][0].rstrip("."), upright=False):
        return None
    if not any(letter.isdigit() for letter in head) or head.rstrip()[-1:] in "+-*/^=_<>":
        return None
    found = _read(head, depth - 1)
    return _measured(found, rest) if found.kind in _SCALAR else None


_MONEY = {"$": "$", "€": "euro", "£": "pound", "¥": "yen"}
_SCALAR = ("number", "expression", "clock")


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
            named.append((lexeme[0].rstrip("."), False))
        elif lexeme["power"] and "circ" in lexeme[0]:
            units.add("deg")
        elif lexeme["unit"] and lexeme[0] not in "/-":
            units.add(_MONEY.get(lexeme[0], lexeme[0]))
        elif lexeme["power"]:
            if not named and not units:
                return None
            units.add({"2": "sq", "3": "cu"}.get(re.sub(r"\D", "", lexeme[0]), "power"))
        elif lexeme["other"] and lexeme[0] not in "(),":
            return None
    if "/" in rest and all(words.is_unit(word, upright=True) for word, _ in named):
        named = [(word, True) for word, _ in named]  # km/h, m/s
    known = words.quantity(named)
    if known is None:
        return None
    factor, more = known
    if factor != 1:
        if found.kind != "number":
            return None
        found = replace(found, text=str((found.number or 0) * factor))
    return replace(found, units=found.units | units | more)


def _expression(text: str, bare: str, depth: int) -> Form | None:
    joined = _UPRIGHT_MARKS.sub(" ", _THOUSANDS.sub(_joined, text))
    joined = re.sub(r"(?<![a-zA-Z\\])(pi|sqrt|infinity|infty)(?![a-zA-Z])", lambda match: "\\" + match[1].replace("inity", "ty"), joined)
    if re.search(r"(?<![a-zA-Z\\])(?:[A-Z]{2,}|[a-zA-Z]*[aeiou][a-zA-Z]*[a-zA-Z]{2}|no|on|so|is|if|of|or|at|in|to)(?![a-zA-Z])", joined):
        return None  # words and names are no products
    joined = re.sub(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", "*", joined)
    joined = re.sub(r"(?<![a-zA-Z.\d])(\d+\.?\d*|\.\d+)[eE]([-+]?\d{1,4})(?!\d)", r"\1*10^{\2}", joined.replace("{+", "{"))
    try:
        found = expression.parse(re.sub(r"\{\+", "{", joined))
        number = expression.value(found)
        if number is not None:
            return Form("number", str(number), decimals=_decimals(joined))
        written = expression.write(found)
    except expression.TooLarge:
        return Form("huge" if not re.search(r"(?<!\\)[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", joined)) else "text", re.sub(r"\s", "", bare))
    except (expression.NotAnExpression, ZeroDivisionError, OverflowError):
        return None
    return Form("expression", written, whole=written)


def _decimals(text: str) -> int:
    """Significant digits of a number written as a decimal, else 0."""
    match = re.fullmatch(r"\s*-?\s*(\d*)\.(\d+)\s*", text)
    return len((match[1] + match[2]).lstrip("0")) if match else 0


Reader = Callable[[str, str, int], "Form | None"]
_READERS: tuple[Reader, ...] = (
    _integer, _plus_minus, _matrix, _choice, _clock, _ratio, _based, _in_words, _repeating, _united, _listed, _named,
    _relation, _bracketed, _measure, _expression,
)  # fmt: skip

_SEPARATORS = ",;"


def split(text: str, separators: str) -> list[str] | None:
    """The parts between separators, or the words "and" and "or", outside all brackets; None where these do not pair."""
    parts, depth, begin, at = [], 0, 0, 0
    while at < len(text):
        letter = text[at]
        depth += (letter in "([{") - (letter in ")]}")
        if depth < 0:
            return None
        if depth == 0 and letter in separators:
            parts.append(text[begin:at])
            begin = at + 1
        elif depth == 0 and letter in "ao" and separators is _SEPARATORS and (match := _CONNECTIVE.match(text, at)):
            parts.append(text[begin:at])
            begin = at = match.end()
            continue
        at += 1
    parts.append(text[begin:])
    return parts if depth == 0 else None


_CONNECTIVE = re.compile(rf"(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])[{END}]?")


def _closing(text: str) -> int:
    """Where the bracket that opens a text closes."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if not depth:
            return at
    return -1
