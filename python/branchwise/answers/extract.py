"""The final answer as a solution states it: boxed, spoken ("the answer is ..."), or after GSM8K's "####"."""

from __future__ import annotations

import re

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*(?:\{|(?P<bare>[^\s{}$\\.,;]+))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # \{ and \} are letters of the answer
_SPOKEN = re.compile(r"\banswer\s*(?:is\b(?:\s*:)?|:)\s*(?P<rest>\S[^\n]*)", re.IGNORECASE)
_GSM8K = re.compile(r"^[ \t]*####(?P<rest>[^\n]*)", re.MULTILINE)
_MATH = re.compile(r"\$\$?(?=\S)(?P<dollar>[^$]*[^$\s])\$|\\\((?P<paren>.+?)\\\)|\\\[(?P<bracket>.+?)\\\]")
_SENTENCE_END = re.compile(r"[.?;](?:\s|$)|,?\s+(?:so|since|because|which)\b")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


def extract_answer(text: str, *, last_number: bool = False) -> str | None:
    """Return the final answer of a solution as written there, or None when it states none.

    The first of these that finds something wins, and each looks at its last occurrence:
    1. `\\boxed{...}` with balanced braces; a box cut off by truncation is no answer
    2. "answer is ..." or "answer: ...", up to the end of the sentence; a formula in `$...$` is taken whole
    3. `#### ...` at the start of a line
    4. the last number, only with `last_number`: a guess, which lets unfinished solutions vote
    """
    found = _boxed(text) or _spoken(text) or _after_hashes(text)
    if found is None and last_number:
        numbers = _NUMBER.findall(text)
        found = numbers[-1].rstrip(",") if numbers else None
    return found


def _boxed(text: str) -> str | None:
    """The complete, non-empty box that opens last: of nested boxes the innermost. One pass, however many are open."""
    boxes = {match.end(): match["bare"] for match in _BOX.finditer(text)}
    contents = {end: bare for end, bare in boxes.items() if bare}
    opened: list[int] = []
    for brace in _BRACE.finditer(text) if boxes else ():
        if brace[0] == "{":
            opened.append(brace.end())
        elif brace[0] == "}" and opened and (begin := opened.pop()) in boxes:
            contents[begin] = text[begin : brace.start()]
    filled = [begin for begin, content in contents.items() if content.strip()]
    return contents[max(filled)].strip() if filled else None


def _spoken(text: str) -> str | None:
    for match in reversed(list(_SPOKEN.finditer(text))):
        rest = match["rest"].strip().strip("*").strip()
        formula = _MATH.match(rest)
        found = formula[formula.lastgroup or 0] if formula else _SENTENCE_END.split(rest, maxsplit=1)[0]
        found = found.strip(" \t*:,")
        if found:
            return found
    return None


def _after_hashes(text: str) -> str | None:
    for match in reversed(list(_GSM8K.finditer(text))):
        if match["rest"].strip():
            return match["rest"].strip()
    return None
