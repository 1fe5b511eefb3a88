"""Text of users between the special tokens of a template: whatever they write, it stays text.

`guarded` breaks what a tokenizer would read as a special token, and `encode_guarded` puts the pieces together. Text
that spells no special token is left as it is, so its ids are those that the tokenizer gives the whole text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection

from branchwise.text.tokenizer import Tokenizer

_BREAK, _MARK, _ESCAPED = "\ufdd0\ufdd1", "\ufdd0", "\ufdd0\ufdd2"  # characters that Unicode gives to nobody


def guarded(tokenizer: Tokenizer, text: str, *, written: bool = False, also: Collection[str] = ()) -> str:
    """`text` with a break behind the first character of every special token that it spells out.

    written: by a model, which may write tokens that only look special, such as `<think>`
    also: words that are broken, too
    """
    text = text.replace(_MARK, _ESCAPED)
    marks = tokenizer.control if written else tokenizer.markup
    likely = () if _first_letters(marks).isdisjoint(text) else marks  # there may be thousands
    found = [word for word in (*likely, *also) if word in text]
    if not found:
        return text
    starts = "|".join(map(re.escape, found))
    return re.sub(f"(?s)(?={starts}).", lambda match: match[0] + _BREAK, text)


@functools.lru_cache(maxsize=16)
def _first_letters(words: frozenset[str]) -> frozenset[str]:
    return frozenset(word[0] for word in words)


def guarded_messages(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Messages with all their fields guarded; what the assistant said was written by a model."""
    return [
        {name: guarded(tokenizer, value, written=message["role"] == "assistant") for name, value in message.items()}
        for message in messages
    ]


def encode_guarded(tokenizer: Tokenizer, text: str, *, after: str = "", bos: bool = False) -> list[int]:
    """Token ids of text with special tokens and guarded parts; `after` and `bos` as in `Tokenizer.encode`."""
    first, *others = [piece.replace(_ESCAPED, _MARK) for piece in text.split(_BREAK)]
    ids = tokenizer.encode(first, special=True, after=after, bos=bos)
    for piece in others:
        ids += tokenizer.encode(piece, special=True, after="\n")
    return ids
