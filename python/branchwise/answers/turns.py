"""Which parts of a model's text may state its answer: not its thoughts, and not the next question that it made up."""

from __future__ import annotations

import re
from collections.abc import Iterator

_THOUGHT = re.compile(
    r"<(?P<close>/)?(?:think|thinking|thought|thoughts|reasoning|scratchpad)\s{0,8}>"
    r"|\[(?P<close2>/)?THINK\]"
    r"|<\|(?:begin|(?P<close3>end))_of_thought\|>"
    r"|\N{WHITE LEFT-POINTING TRIANGLE}(?P<close4>/)?think\N{WHITE RIGHT-POINTING TRIANGLE}",
    re.IGNORECASE,
)
_NEW_TURN = re.compile(
    r"<\|(?:im_start|im_end|start_header_id|eot_id|endoftext|end_of_text|end|user|eom_id)\|>|</s>|<(?:start|end)_of_turn>"
    r"|\[INST\]|^[ \t]{0,8}#{1,6} {1,4}(?:Problem|Question|Exercise)[ \t]{0,8}$"
    r"|^[ \t]{0,8}(?:#{1,6} {0,4}|\*\*|>)?(?:Human|User|(?:(?:Next|New|Another|Follow[- ]up) )?(?:question|problem)"
    r"|Exercise|Instruction|Example|Input|Q)"
    r"(?:(?: ?\d{1,4})?(?:\*\*)?[:.](?=\s|\*|$)| \d{1,4}(?:\*\*)?[ \t]{0,8}$)",
    re.MULTILINE | re.IGNORECASE,
)


def spoken_aloud(text: str) -> str:
    """The text outside of thoughts; one that is never closed runs to the end, one that was opened in the prompt from
    the beginning."""
    if "<" not in text and "THINK]" not in text and "\N{WHITE LEFT-POINTING TRIANGLE}" not in text:
        return text
    kept: list[str] = []
    begin = depth = 0
    for tag in _THOUGHT.finditer(text):
        if any(tag[group] for group in ("close", "close2", "close3", "close4")):
            if not depth:
                kept.clear()
            depth = max(0, depth - 1)
            begin = tag.end()
        else:
            if not depth:
                kept.append(text[begin : tag.start()])
            depth += 1
    return "".join([*kept, "" if depth else text[begin:]])


def turns(text: str) -> Iterator[str]:
    """The text piece by piece, cut where somebody else begins to speak or another question is asked."""
    begin = 0
    for marker in _NEW_TURN.finditer(text):
        yield text[begin : marker.start()]
        begin = marker.end()
    yield text[begin:]
