"""Text of a growing sample piece by piece: what is shown stays, whatever comes next."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Endings


class Pieces:
    """Holds back the end of a text that may become another character, or part of a stop, which would be cut off."""

    def __init__(self, tokenizer: Tokenizer, endings: Endings) -> None:
        self._tokenizer = tokenizer
        self._stops = () if endings.include_stop else tuple(stop.encode() for stop in endings.stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = b""
        self._shown = 0  # characters

    def add(self, tokens: Sequence[int]) -> str:
        """What is certain after more tokens, none of which has ended the sample."""
        data = self._held + b"".join(map(self._tokenizer.token_bytes, tokens))
        certain = len(data) - max((_begun(stop, data) for stop in self._stops), default=0)
        self._held = data[certain:]
        piece = self._decoder.decode(data[:certain])
        self._shown += len(piece)
        return piece

    def rest(self, text: str) -> str:
        """What has not been shown of the whole text."""
        piece = text[self._shown :]
        self._shown = len(text)
        return piece


def _begun(stop: bytes, data: bytes) -> int:
    """Bytes at the end of `data` that a stop may begin with."""
    return next((n for n in range(min(len(stop) - 1, len(data)), 0, -1) if data.endswith(stop[:n])), 0)
