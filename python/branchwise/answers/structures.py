"""Readers of answers with parts: lists, tuples, sets, intervals, matrices, equations and inequalities."""

from __future__ import annotations

import re
from dataclasses import replace

from branchwise.answers import expression, sums
from branchwise.answers.form import HIGHEST, LOWEST, Form, Piece, interval, listed, set_of, tuple_of, union
from branchwise.answers.notation import END, UPRIGHT
from branchwise.answers.scalars import join_thousands

MAX_ITEMS = 40


def plus_minus(piece: Piece) -> Form | None:
    r"""a \pm b: two answers."""
    if piece.text.count(r"\pm") != 1 or r"\mp" in piece.text or not piece.depth:
        return None
    return listed([piece.read(piece.text.replace(r"\pm", sign).replace("= +", "= ")) for sign in ("+", "-")])


_MATRIX = re.compile(r"\\begin\s?\{(\w?)matrix\}(.*)\\end\s?\{\1matrix\}", re.DOTALL)


def matrix(piece: Piece) -> Form | None:
    """Rows of a matrix, whatever its brackets; a determinant is something else."""
    match = _MATRIX.fullmatch(piece.text)
    if not match or not piece.depth:
        return None
    rows = [row for row in match[2].split("\\\\") if row.strip()]
    lines = [tuple_of("[", [piece.read(cell) for cell in row.split("&")], "]") for row in rows]
    kind = match[1] if match[1] in ("v", "V") else ""
    return Form("matrix", kind + "[" + ",".join(line.text for line in lines) + "]", tuple(lines))


def list_(piece: Piece) -> Form | None:
    """Parts between commas, "and" and "or"."""
    text = join_thousands(piece.text)
    parts = split(text, _SEPARATORS)
    if parts is None or not 2 <= len(parts) <= MAX_ITEMS or not piece.depth:
        return None
    said = [part.strip(" " + UPRIGHT + END) for part in parts]
    items = [piece.read(part) for part in said if part]
    if len(items) < 2 or any(item.kind == "blank" for item in items):
        return items[0] if len(items) == 1 else None
    if len(items) == 2 and re.search(r"\band\b", piece.bare) and (both := _between(*items)):
        return both
    if re.search(r"\bor\b", piece.bare):
        if len({item.text for item in items}) == 1:
            return items[0]  # 1/2 or 0.5
        if all(item.kind in ("interval", "union") for item in items):
            return union(items)
    return listed(items)


def _between(one: Form, other: Form) -> Form | None:
    """x > 1 and x < 2."""
    if one.kind != "interval" or other.kind != "interval":
        return None
    if one.items[0] == LOWEST:
        one, other = other, one
    if one.items[1] != HIGHEST or other.items[0] != LOWEST:
        return None
    return interval(one.text[0], one.items[0], other.items[1], other.text[-1])


_WITHOUT = re.compile(r"\\reals\s?(?:\\(?:setminus|backslash)|-)\s?\\?\{(.*)\}", re.DOTALL)
_CUP = re.compile(r"\\cup(?![a-zA-Z])|(?<=[\])])\s?U\s?(?=[\[(])|\bunion\b")


def united(piece: Piece) -> Form | None:
    r"""(0, 1) \cup (2, 3)."""
    if (hole := _WITHOUT.fullmatch(piece.text)) and piece.depth:
        point = piece.read(hole[1].rstrip("\\"))
        return union([interval("(", LOWEST, point, ")"), interval("(", point, HIGHEST, ")")])
    parts = _CUP.split(piece.text)
    if len(parts) < 2 or not piece.depth:
        return None
    name = _NAME.match(parts[0])
    parts[0] = parts[0][name.end() :] if name else parts[0]
    return union([piece.read(part) for part in parts])


_BRACKETED = re.compile(r"(\\\{|[(\[])(.*)(\\\}|[)\]])", re.DOTALL)
_ZEROS = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})*,0\d\d(?!\d)")  # what begins with zeros is no number of its own


def bracketed(piece: Piece) -> Form | None:
    r"""(1, 2), [0, 1), \{1, 2\}; brackets around a single answer mean nothing."""
    match = _BRACKETED.fullmatch(piece.text)
    if not match or not piece.depth or (match[1] == r"\{") != (match[3] == r"\}"):
        return None
    opening, inside, closing = match.groups()
    if ", " in inside or _ZEROS.search(inside):
        inside = join_thousands(inside, bracketed=True)
    parts = split(inside, ",;")
    if parts is None or len(parts) > MAX_ITEMS:
        return None
    if len(parts) == 1:
        return _alone(piece, opening + closing, inside)
    items = [piece.read(part) for part in parts]
    if any(item.kind == "blank" for item in items):
        return None
    if opening == r"\{":
        return set_of(items)
    if len(items) == 2 and opening + closing != "()":
        return interval(opening, items[0], items[1], closing)
    return tuple_of(opening, items, closing)


_BUILDER = re.compile(r"\s?[a-zA-Z]\s?(?:\||:|\\mid(?![a-zA-Z]))")  # x such that


def _alone(piece: Piece, brackets: str, inside: str) -> Form | None:
    if (builder := _BUILDER.match(inside)) and brackets == r"\{\}":
        return piece.read(inside[builder.end() :])
    if brackets not in ("()", "[]", r"\{\}") or re.search(r"\||:|\\mid", inside):
        return None
    item = piece.read(inside)
    if brackets == r"\{\}" and item.kind in ("set", "tuple", "interval", "union"):
        return set_of([item])
    return None if item.kind == "blank" else item


_NAME = re.compile(
    rf"{UPRIGHT}?\\?[a-zA-Z](?:[a-zA-Z' {END}]|\\(?=[a-zA-Z])){{0,60}}(?:_(?:\{{[^{{}}]{{0,20}}\}}|\w))?'?\s?"
    rf"(?:\([a-zA-Z0-9, ]{{0,20}}\)\s?)?{END}?\s?(?:=(?!=)|\\in(?![a-zA-Z])|:(?!\s?\d+\s?$))\s?"
)


def named(piece: Piece) -> Form | None:
    """x = 5. The sides of 3 + 4 = 7 must agree."""
    text = piece.text
    if not piece.depth or re.search(r"[<>]|\\(?:leq|geq|neq)", text):
        return None
    if match := _NAME.match(text):
        rest = text[match.end() :]
        found = piece.read(rest)
        if found.kind == "blank" or (found.kind in ("relation", "text") and "=" in rest):
            return None
        name = re.sub(rf"[\s{UPRIGHT}{END}=:]|\\in$", "", match[0].strip())
        return replace(found, name=found.name or name, whole=text if "=" in match[0] else found.whole)
    sides = split(text, "=")
    if sides is None or len(sides) < 2:
        return None
    forms = [piece.read(side) for side in sides if side.strip()]
    if all(form.kind == "number" for form in forms) and len({form.text for form in forms}) == 1:
        return forms[-1]
    if len(forms) == 2 and forms[0].kind == "number" and _is_letter(forms[1]):
        return replace(forms[0], name=forms[1].text, whole=text)
    return None


_RELATION = re.compile(r"\\(?:leq|geq|neq|approx)|[<>=]")
_TURNED = {"<": ">", ">": "<", r"\leq": r"\geq", r"\geq": r"\leq"}


def relation(piece: Piece) -> Form | None:
    """Equations, all on one side, and inequalities; those of one letter against numbers are intervals."""
    text = piece.text
    signs = _RELATION.findall(text)
    sides = _RELATION.split(text)
    if not signs or not piece.depth or len(signs) > 8 or not any(side.strip() for side in sides):
        return None
    forms = [piece.read(side) if side.strip() else Form("blank", "") for side in sides]
    if found := _solved(signs, forms):
        return replace(found, whole=text)
    if signs == ["="] and forms[0].kind == "text" and re.search("[a-zA-Z]{2}", sides[0]) and forms[1].kind == "number":
        return forms[1]  # 10% of 50 = 5
    if signs == ["="] and all(form.kind in ("number", "expression") for form in forms):
        try:
            difference = sums.minus(*(expression.parse(form.text) for form in forms))
        except sums.NotAnExpression:
            difference = {}
        if sums.variables(difference):
            return Form("relation", sums.write(sums.primitive(difference)[1]) + "=0", whole=text)
    written = forms[0].text + "".join(sign + form.text for sign, form in zip(signs, forms[1:], strict=True))
    return Form("relation", written, whole=text)


def _solved(signs: list[str], forms: list[Form]) -> Form | None:
    r"""An interval for x > 3 and 1 <= x < 2, two for x \neq 3."""
    if len(signs) == 2 and _is_letter(forms[1]) and _is_constant(forms[0]) and _is_constant(forms[2]):
        low, high = forms[0], forms[2]
        if signs[0] in (">", r"\geq"):
            low, high, signs = high, low, [_TURNED.get(sign, "") for sign in reversed(signs)]
        if all(sign in ("<", r"\leq") for sign in signs):
            return interval("(" if signs[0] == "<" else "[", low, high, ")" if signs[1] == "<" else "]")
    if len(signs) != 1 or not any(_is_letter(form) for form in forms) or not any(_is_constant(form) for form in forms):
        return None
    turned = not _is_letter(forms[0])
    end, sign = (forms[0], _TURNED.get(signs[0], signs[0])) if turned else (forms[1], signs[0])
    if sign == r"\neq":
        return union([interval("(", LOWEST, end, ")"), interval("(", end, HIGHEST, ")")])
    if sign in ("<", r"\leq"):
        return interval("(", LOWEST, end, ")" if sign == "<" else "]")
    if sign in (">", r"\geq"):
        return interval("(" if sign == ">" else "[", end, HIGHEST, ")")
    return None


_CONSTANTS = {r"\pi", "e", r"\infty", r"\sqrt", r"\frac", r"\cdot"}


def _is_letter(form: Form) -> bool:
    return re.fullmatch(r"\\?[a-zA-Z]+(?:\([a-z]\))?", form.text) is not None and not _is_constant(form)


def _is_constant(form: Form) -> bool:
    if form.kind != "expression" or form.name:
        return form.kind == "number"
    letters = set(re.findall(r"\\?[a-zA-Z]+", form.text))
    return letters <= _CONSTANTS and form.text != "e"


_SEPARATORS = ",;"
_CONNECTIVE = re.compile(rf"(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z]){END}?")


def split(text: str, separators: str) -> list[str] | None:
    """The parts between separators outside all brackets; None where the brackets do not pair. Words join lists, too."""
    parts, depth, begin, at = [], 0, 0, 0
    while at < len(text):
        letter = text[at]
        depth += (letter in "([{") - (letter in ")]}")
        if depth < 0:
            return None
        word = _CONNECTIVE.match(text, at) if letter in "ao" and separators is _SEPARATORS and not depth else None
        if word or (not depth and letter in separators):
            parts.append(text[begin:at])
            begin = word.end() if word else at + 1
        at = word.end() if word else at + 1
    parts.append(text[begin:])
    return parts if depth == 0 else None
