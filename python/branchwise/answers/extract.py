"""The final answer as a solution states it: boxed, tagged, spoken ("the answer is ..."), or after GSM8K's "####"."""

from __future__ import annotations

import re

from branchwise.answers.boxes import boxed
from branchwise.answers.reading import is_answer, read
from branchwise.answers.spoken import spoken
from branchwise.answers.turns import spoken_aloud, turns

_TAGGED = re.compile(r"<answer>(?P<inside>[^<]{1,2000})(?:</answer>|$)", re.IGNORECASE)
_GSM8K = re.compile(r"^[ \t]{0,8}####(?P<rest>[^\n]{0,1000})", re.MULTILINE)
_NUMBER = re.compile(r"(?<![\d.])-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


def extract_answer(text: str, *, last_number: bool = False) -> str | None:
    r"""Return the final answer of a solution as written there, or None when it states none.

    Thoughts (`<think>...`) state nothing, and what follows an answer behind a new question or turn is somebody else's.
    The first of these that finds something wins, and each looks at its last occurrence:
    1. `\boxed{...}` with balanced braces, and the boxes that stand in one list with it
    2. `<answer>...</answer>`
    3. "answer is ...", "answer: ..." or a heading "Answer", up to the end of the sentence, without hedges
    4. `#### ...` at the start of a line
    5. the last number, only with `last_number`: a guess, which lets unfinished solutions vote
    What is cut off, empty or only delimiters is no answer. Takes time linear in the length of the text.
    """
    text = spoken_aloud(text)
    for turn in turns(text):
        found = boxed(turn) or _tagged(turn) or spoken(turn) or _after_hashes(turn)
        if found is not None:
            return found
    numbers = _NUMBER.findall(text) if last_number else []
    return numbers[-1].rstrip(",") if numbers else None


def _tagged(text: str) -> str | None:
    inside = [match["inside"].strip() for match in _TAGGED.finditer(text)]
    return next((found for found in reversed(inside[-8:]) if is_answer(found)), None)


def _after_hashes(text: str) -> str | None:
    """GSM8K's mark; a heading of level four looks the same, but has words."""
    for match in reversed(list(_GSM8K.finditer(text))[-40:]):
        rest = match["rest"].strip().strip("*").strip()
        if is_answer(rest) and (read(rest).kind != "text" or " " not in rest):
            return rest
    return None
