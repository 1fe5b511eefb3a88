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
        self._texts = {text: text.encode() for text in texts}
        self._verdict = verdict
        self._white = Lexicon[White | None](WHITE, None)
        told_apart = {byte for text in [*self._texts.values(), *WHITE] for byte in text}
        self.words = Lexicon[int | None]({bytes([byte]): byte for byte in told_apart}, None)
        self._next, self._complete, self._begun = _automaton(list(self._texts.values()))
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

    def trim(self, begun: State, data: bytes) -> tuple[bytes, str]:
        """Without the text that ended the solution, or the part of it in this step; that text, the first named one."""
        before = self._begun[begun[1]]  # of it, in the steps before
        whole = before + data
        stop = next(text for text, code in self._texts.items() if whole.endswith(code))
        return whole[len(before) : max(len(before), len(whole) - len(self._texts[stop]))], stop


def _automaton(texts: Sequence[bytes]) -> tuple[list[dict[int, int]], list[bool], list[bytes]]:
    """Nodes by number, 0 the root: where bytes lead, the root where none is named; whether a text ends here; what has
    been read of the texts that may come."""
    following: list[dict[int, int]] = [{}]
    complete, begun = [False], [b""]
    for text in texts:
        node = 0
        for byte in text:
            if byte not in following[node]:
                following[node][byte] = len(following)
                following.append({})
                complete.append(False)
                begun.append(begun[node] + bytes([byte]))
            node = following[node][byte]
        complete[node] = True
    queue = deque((child, 0) for child in following[0].values())  # with the longest proper end that is a node
    while queue:
        node, end = queue.popleft()
        complete[node] |= complete[end]
        queue.extend((child, following[end].get(byte, 0)) for byte, child in following[node].items())
        following[node] = following[end] | following[node]
    return following, complete, begun
