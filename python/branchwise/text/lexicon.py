"""Words to look for in bytes that come one by one, also split across tokens and inside characters."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Generic, TypeVar

LINE_ENDS = "\n\x85\u2028\u2029"
BLANKS = (
    "\t\v\f\r\x1c\x1d\x1e\x1f \xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
    "\u200a\u202f\u205f\u3000"
    "\xad\u180e\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064\ufeff"  # that nobody sees
)


class White(Enum):
    """White space: what ends a line, and all else that nobody sees."""

    LINE = auto()
    BLANK = auto()


WHITE = {
    **{char.encode(): White.LINE for char in LINE_ENDS},
    **{char.encode(): White.BLANK for char in BLANKS},
}

Event = TypeVar("Event")


class Lexicon(Generic[Event]):
    """Cuts bytes into words and `other`; what may still become a word is pending.

    No word is the beginning of another, and none begins inside another, so what turns out to be no word is `other`
    as a whole, and the byte that showed it is read anew.
    """

    def __init__(self, words: Mapping[bytes, Event], other: Event) -> None:
        self._words = words
        self._other = other
        self.pending = list(dict.fromkeys([b"", *(word[:at] for word in words for at in range(1, len(word)))]))
        self._prefixes = frozenset(self.pending)
        self.events = list(dict.fromkeys([*words.values(), other]))

    def read(self, pending: bytes, byte: int) -> tuple[bytes, tuple[Event, ...]]:
        """What is pending after a byte, and the words that ended with it or before it."""
        word = pending + bytes([byte])
        if word in self._words:
            return b"", (self._words[word],)
        if word in self._prefixes:
            return word, ()
        if not pending:
            return b"", (self._other,)
        rest, events = self.read(b"", byte)
        return rest, (self._other, *events)
