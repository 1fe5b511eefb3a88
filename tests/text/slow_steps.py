"""Where steps and solutions end, read off the whole text with regular expressions: slow, and plain to see."""

from __future__ import annotations

import re
from collections.abc import Sequence

BLANK = r"[\t\v\f\r\x1c-\x1f \xa0\u1680\u2000-\u200a\u202f\u205f\u3000\xad\u180e\u200b-\u200f\u2060-\u2064\ufeff]"
LINE_END = r"[\n\x85\u2028\u2029]"
FENCE = re.compile(rf"(?:{BLANK}|[->+*.)\d])*(?P<fence>`{{3,}}|~{{3,}})(?P<info>.*)", re.DOTALL)
FORMULA = re.compile(r"\\\\|\\\$|\\`|\$\$|\\begin\{|\\end\{|\\\[|\\\]")
ENTERS, LEAVES = ("\\begin{", "\\["), ("\\end{", "\\]")


def text_of(data: bytes) -> str:
    """Broken characters are not white space."""
    return data.decode("utf-8", errors="surrogateescape")


def paragraph_end(text: str) -> tuple[int | None, list[int]]:
    """Where the first blank line outside of everything ends, and where those before it end; None: nowhere."""
    opened, seen, waits, at = "", False, [], 0
    for match in re.finditer(LINE_END, text):
        line, at = text[at : match.start()], match.end()
        blank = not re.sub(BLANK, "", line)
        if blank and seen and not opened:
            return at, waits
        if blank and seen:
            waits.append(at)
        seen = seen or not blank
        opened = after_line(line, opened)
    return None, waits


def after_line(line: str, opened: str) -> str:
    """What is open after a line: "", a fence, "$$", or a backslash for every environment."""
    if opened[:1] in ("`", "~"):
        closing = re.fullmatch(rf"(?:{BLANK}|>)*({opened[0]}+){BLANK}*", line)
        return "" if closing and min(5, len(closing[1])) >= len(opened) else opened
    fence = FENCE.fullmatch(line) if not opened else None
    if fence and not ("`" in fence["fence"] and "`" in fence["info"]):
        return fence["fence"][:5]
    code = False
    if fence:
        line = fence["info"].split("`", 1)[1]  # behind code within three ticks
    for word in re.findall(rf"{FORMULA.pattern}|`", line):
        if word == "`":
            code = not code and not opened
        elif code:
            pass
        elif opened == "$$":
            opened = "" if word == "$$" else opened
        elif word in ENTERS:
            opened = ("\\" + opened)[:4]
        elif word in LEAVES:
            opened = opened[1:]
        elif word == "$$" and not opened:
            opened = "$$"
    return opened


def literal_end(data: bytes, texts: Sequence[str], *, after_something: bool) -> int | None:
    """Where the first of the texts to be complete ends."""
    begin = 0
    if after_something:
        count = 1
        while count <= len(data) and may_be_white(data[:count]):
            count += 1
        begin = count
    ends = [data.find(text.encode(), begin) + len(text.encode()) for text in texts if text.encode() in data[begin:]]
    return min(ends, default=None)


def may_be_white(data: bytes) -> bool:
    """Whether white space can begin so."""
    text = re.sub(rf"^(?:{BLANK}|{LINE_END})*", "", text_of(data)).encode("utf-8", errors="surrogateescape")
    return any(char.encode()[: len(text)] == text for char in "\u1680\u180e\u2000\u2060\u3000\ufeff\x85") or not text


def solution_end(text: str) -> int | None:
    """Where the line of the first box that holds something ends, or a heading of another problem."""
    first, at, depth, empty, complete = True, 0, 0, True, False
    for match in re.finditer(rf"[^\n\x85\u2028\u2029]*(?:{LINE_END}|$)", text):
        line, at = match[0], match.end()
        heading = re.match(rf"(?:{BLANK}|[#*>])*(?:Problem|PROBLEM|Question|QUESTION)(?:{BLANK}|[#*>\d])*:", line)
        stop = match.start() + heading.end() if heading and not first else None
        for word in re.finditer(r"\\\\|\\[{}]|\\(?:boxed|fbox) ?\{|[{}]|.", line, re.DOTALL):
            if re.fullmatch(rf"{BLANK}|{LINE_END}", word[0]):
                continue
            is_box = len(word[0]) > 2
            if not depth:
                depth, empty = int(is_box), True
                complete = complete and not is_box
            elif word[0] == "}" and depth == 1:
                depth, complete = 0, not empty
            else:
                depth, empty = min(12, depth + (word[0] == "{" or is_box) - (word[0] == "}")), False
        if stop is not None:
            return stop
        if complete and re.search(rf"{LINE_END}$", line):
            return at
        first = first and not re.sub(rf"{BLANK}|{LINE_END}|[#*>]", "", line)
    return None
