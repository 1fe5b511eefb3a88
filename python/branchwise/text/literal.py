"""Any of some texts, byte by byte: what users give as delimiter, and what ends a solution."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from branchwise.text.automaton import Verdict
from branchwise.text.lexicon import WHITE, Lexicon, White

State = tuple[bytes | None, int]


class Literal:
    """The first of the texts to be complete ends the step, or the solution (Aho and Corasick 1975).

    A delimiter counts only after the first thing in a step that can be seen, so a step that opens with one does not end
    there; what ends a solution counts everywhere, also across steps. State: the piece of a character that may be white
    space, `None` once something was seen; then the longest end of the text that begins one of the texts.
    """

    def __init__(self, texts: Sequence[str], verdict: Verdict) -> None:
        self._texts = sorted((text.encode() for text in texts), key=len, reverse=True)
        self._verdict = verdict
        self._white = Lexicon[White | None](WHITE, None)
        told_apart = {byte for text in [*self._texts, *WHITE] for byte in text}
        self.words = Lexicon[int | None]({bytes([byte]): byte for byte in told_apart}, None)
        self._next, self._complete = _automaton(self._texts)
        self.start: State = (b"" if verdict is Verdict.STEP else None, 0)

    def read(self, state: State, byte: int | None) -> tuple[State, Verdict]:
        unseen, matched = state
        if byte is None:  # in none of the texts, and no white space
            return (None, 0), Verdict.GO
        if unseen is not None:
            pending, events = self._white.read(unseen, byte)
            return (None if None in events else pending, 0), Verdict.GO
        matched = self._next[matched].get(byte, 0)
        return (None, matched), self._verdict if self._complete[matched] else Verdict.GO

    def again(self, state: State) -> State:
        return self.start if self._verdict is Verdict.STEP else state

    def trim(self, data: bytes) -> bytes:
        """Without the text that ended the solution, or the part of it in this step."""
        for text in self._texts:
            if data.endswith(text):
                return data.removesuffix(text)
        return b""  # it began in a step before


def _automaton(texts: Sequence[bytes]) -> tuple[list[dict[int, int]], list[bool]]:
    """Nodes by number, 0 the root: where bytes lead, the root where none is named, and whether a text ends here."""
    following: list[dict[int, int]] = [{}]
    complete = [False]
    for text in texts:
        node = 0
        for byte in text:
            if byte not in following[node]:
                following[node][byte] = len(following)
                following.append({})
                complete.append(False)
            node = following[node][byte]
        complete[node] = True
    queue = deque((child, 0) for child in following[0].values())  # with the longest proper end that is a node
    while queue:
        node, end = queue.popleft()
        complete[node] |= complete[end]
        queue.extend((child, following[end].get(byte, 0)) for byte, child in following[node].items())
        following[node] = following[end] | following[node]
    return following, complete
