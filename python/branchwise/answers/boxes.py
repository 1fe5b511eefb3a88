r"""Answers in `\boxed{...}`: the last one, and those that stand beside it in the same list."""

from __future__ import annotations

import re

from branchwise.answers.reading import is_answer

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![a-zA-Z])\s{0,8}(?:\{|(?P<bare>[^\s{}$\\.,;]{1,80}))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # \{ and \} are letters of the answer
_BETWEEN = re.compile(
    r"(?:\s|\$|\\[()\[\],;:! ]|\\q?quad|~)*(?:,|;|&|\\text\s?\{\s*(?:and|or)\s*\}|\b(?:and|or)\b|\\quad|\\qquad)+"
    r"(?:\s|\$|\\[()\[\],;:! ]|\\q?quad|~|(?:and|or)\b)*(?:\\?[a-zA-Z]{1,8}(?:_\{?\w{1,4}\}?)?\s*=\s*)?"
)
_REACH = 60  # characters between two boxes of one list


def boxed(text: str) -> str | None:
    """The complete box that opens last, of nested ones the innermost, with those before it in its list; or None."""
    boxes = [box for box in _contents(text) if text[box[1] : box[2]].strip()]
    while boxes and not is_answer(_inside(text, boxes[-1])):
        boxes.pop()
    if not boxes:
        return None
    found = [_inside(text, boxes[-1])]
    for before, box in zip(reversed(boxes[:-1]), reversed(boxes), strict=False):
        gap = text[before[3] : box[0]]
        if before[3] > box[0] or len(gap) > _REACH or not (_BETWEEN.fullmatch(gap) or _other_name(text, before, gap)):
            break
        found.append(_inside(text, before))
    return ", ".join(dict.fromkeys(reversed(found)))


_LINE = re.compile(
    r"[.,]?\s?\$?(?:\\[)\]])?\s{0,4}(?:\\[(\[])?\$?\s?(?P<name>\\?[a-zA-Z]{1,8}(?:_\{?\w{1,4}\}?)?)\s?=\s?"
)
_NAME = re.compile(r"(?P<name>\\?[a-zA-Z]{1,8}(?:_\{?\w{1,4}\}?)?)\s?=\s?$")


def _other_name(text: str, before: Box, gap: str) -> bool:
    """Whether two lines give two unknowns: x = ..., and below it y = ..."""
    here, above = _LINE.fullmatch(gap), _NAME.search(text, max(0, before[0] - 20), before[0])
    return here is not None and above is not None and here["name"] != above["name"]


Box = tuple[int, int, int, int]  # where the command, its content, its content's end and its end lie


def _inside(text: str, box: Box) -> str:
    return text[box[1] : box[2]].strip()


def _contents(text: str) -> list[Box]:
    """All complete boxes, in the order in which they open. One pass, however many are open."""
    opened = {match.end(): match for match in _BOX.finditer(text)}
    found = [(match.start(), match.start("bare"), end, end) for end, match in opened.items() if match["bare"]]
    stack: list[int] = []
    for brace in _BRACE.finditer(text) if opened else ():
        if brace[0] == "{":
            stack.append(brace.end())
        elif brace[0] == "}" and stack and (begin := stack.pop()) in opened:
            found.append((opened[begin].start(), begin, brace.start(), brace.end()))
    return sorted(found, key=lambda box: box[1])
