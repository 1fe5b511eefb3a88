"""From the text of an answer to its form: a table of readers, one for each kind."""

from __future__ import annotations

import re
from functools import lru_cache

from branchwise.answers import scalars, structures, words
from branchwise.answers.form import EMPTY, HIGHEST, LOWEST, Form, Piece, Reader, interval
from branchwise.answers.notation import END, UPRIGHT, clean, is_blank, without_marks

MAX_LENGTH = 400  # longer answers are only stripped: nobody writes the same long answer twice
_MAX_DEPTH = 5


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


def _read(text: str, depth: int) -> Form:
    text = _trimmed(text)
    bare = " ".join(without_marks(text).split())
    if is_blank(bare):
        return EMPTY if _EMPTY.fullmatch(bare) else Form("blank", "")
    if aside := _ASIDE.search(text):
        said = _read(text[: aside.start()], depth)
        if said.kind not in ("text", "blank"):
            return said
    piece = Piece(text, bare, depth, _read)
    for reader in _READERS:
        if (found := reader(piece)) is not None:
            return found
    return _words(bare)


def _trimmed(text: str) -> str:
    """Without hedges in front, stops behind, and braces around everything."""
    while True:
        before = text
        text = words.without_hedges(text.strip()).strip(" ;,:")
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        if text[:1] == "{" and _closing(text) == len(text) - 1:
            inside = text[1:-1]
            text = rf"\{{{inside}\}}" if "," in inside else inside  # a set, typed without LaTeX
        if text[:1] == UPRIGHT and text.find(END) == len(text) - 1 and not (text[1:-1].isalpha() and len(text) > 3):
            text = text[1:-1]
        if text == before:
            return text


def _closing(text: str) -> int:
    """Where the brace that opens a text closes."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if not depth:
            return at
    return -1


_ASIDE = re.compile(
    r"(?<=\S) ?\((?:(?:or|i\.e\.?,?|approx[a-z]{0,10}\.?|about|that is|since|because|\\approx|=)[^()]{0,80}"
    r"|[a-zA-Z]{3,12}|(?<=[a-z] \()\d{1,12})\)$"
)
_EMPTY = re.compile(
    r"(?:there (?:is|are) )?no (?:real |integer |such |possible |valid )?(?:solutions?|roots?|values?)(?: exists?)?"
    r"|(?:the )?empty set|\\\{\s?\\\}|\\emptyset",
    re.IGNORECASE,
)
_REALS = re.compile(r"\\reals|(?:the )?(?:set of )?(?:all )?(?:the )?real numbers|all reals", re.IGNORECASE)


def _named_set(piece: Piece) -> Form | None:
    if _EMPTY.fullmatch(piece.bare):
        return EMPTY
    return interval("(", LOWEST, HIGHEST, ")") if _REALS.fullmatch(piece.bare) else None


_SENTENCE = re.compile(r"[a-zA-Z][a-zA-Z' .,-]*")


def _words(bare: str) -> Form:
    """Words lose their case, but names of two or three capitals keep it; mathematics loses its spaces."""
    if _SENTENCE.fullmatch(bare) and (re.search("[a-zA-Z]{3}", bare) or bare.lower() in ("no", "on", "ok")):
        is_name = re.fullmatch("[A-Z]{2,3}", bare) and bare != "NO"
        return Form("text", bare if is_name else bare.casefold().strip())
    tight = re.sub(r"(?<=[^\w]) +| +(?=[^\w])", "", bare)
    tight = re.sub(r"([\^_])\{(\w)\}", r"\1\2", tight)
    return Form("text", tight, whole=bare)


_READERS: tuple[Reader, ...] = (
    scalars.integer,
    _named_set,
    structures.plus_minus,
    structures.matrix,
    scalars.choice,
    scalars.clock,
    scalars.ratio,
    scalars.based,
    scalars.in_words,
    scalars.repeating,
    structures.united,
    structures.list_,
    structures.bracketed,
    structures.named,
    structures.relation,
    scalars.measure,
    scalars.expression_,
)
