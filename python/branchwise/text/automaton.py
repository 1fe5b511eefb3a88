"""Automata over bytes: a lexicon cuts them into words, a rule says what follows; all as numbers, and as tables."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from branchwise.text.lexicon import Lexicon


class Verdict(IntEnum):
    """What a rule makes of the text so far; of several the highest holds."""

    GO = 0
    WAIT = 1  # the step could end here, but something is open
    STEP = 2  # the step ends
    SOLUTION = 3  # the whole solution ends


class Rule(Protocol):
    """A finite automaton over the words of its lexicon."""

    @property
    def words(self) -> Lexicon[Any]: ...
    @property
    def start(self) -> Hashable: ...

    def read(self, state: Any, word: Any) -> tuple[Hashable, Verdict]:
        """The state after a word, and what follows from it."""
        ...

    def again(self, state: Any) -> Hashable:
        """Where the next step begins."""
        ...

    def trim(self, begun: Any, data: bytes) -> tuple[bytes, str | None]:
        """What is left of a step that began in a state, with whose last byte the solution ended; the text that did."""
        ...


Codes = NDArray[np.int32]  # functions on states: for each 4 x the state after it + the verdict; of an end only that


class Automaton:
    """A rule over bytes. Its states are numbers, 0 the start: that of the rule, met by met, x what may be pending."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._pending = {pending: number for number, pending in enumerate(rule.words.pending)}
        self._states: list[Hashable] = [rule.start]
        self._numbers: dict[Hashable, int] = {rule.start: 0}
        self._moves: dict[tuple[int, Hashable], tuple[int, Verdict]] = {}

    @property
    def size(self) -> int:
        """Number of states met so far: all of them after `functions`."""
        return len(self._states) * len(self._pending)

    def read(self, state: int, data: bytes) -> tuple[int, Verdict, int]:
        """The state after some bytes, the highest verdict on the way, and how many bytes it took to an end."""
        at, rest = divmod(state, len(self._pending))
        pending, highest = self.rule.words.pending[rest], Verdict.GO
        for count, byte in enumerate(data, start=1):
            pending, words = self.rule.words.read(pending, byte)
            for word in words:
                at, verdict = self._move(at, word)
                highest = max(highest, verdict)
            if highest >= Verdict.STEP:
                return at * len(self._pending), highest, count
        return at * len(self._pending) + self._pending[pending], highest, len(data)

    def skip(self, state: int, data: bytes) -> int:
        """The state after some bytes, whatever may have ended on the way."""
        while data:
            state, _, count = self.read(state, data)
            data = data[count:]
        return state

    def trim(self, begun: int, data: bytes) -> tuple[bytes, str | None]:
        """What is left of a step that began in a state, with whose last byte the solution ended; the text that did."""
        return self.rule.trim(self._states[begun // len(self._pending)], data)

    def again(self, state: int) -> int:
        """Where the next step begins."""
        rule, at = self.rule, state // len(self._pending)
        after = rule.again(self._states[at])
        return state if after is self._states[at] else self._number(after) * len(self._pending)

    def functions(self, texts: Iterable[bytes]) -> tuple[NDArray[np.int32], Codes]:
        """Texts as functions on the states: which one each is, and [functions, states] what they do.

        Texts that act alike share a function, so there are few.
        """
        single, alike = self._bytes()
        found = [np.arange(self.size, dtype=np.int32) * 4]
        numbers = {found[0].tobytes(): 0}
        longer: list[dict[int, int]] = [{}]  # function and one more byte -> function
        which = []
        for text in texts:
            function = 0
            for byte in text.translate(alike):
                after = longer[function].get(byte)
                if after is None:
                    row = _compose(found[function], single[byte])
                    after = longer[function][byte] = numbers.setdefault(row.tobytes(), len(found))
                    if after == len(found):
                        found.append(row)
                        longer.append({})
                function = after
            which.append(function)
        return np.array(which, np.int32), np.stack(found)

    def _bytes(self) -> tuple[dict[int, Codes], bytes]:
        """What single bytes do, and for every byte which of them does the same."""
        lexicon = self.rule.words
        for at, _ in enumerate(self._states):  # grows as it is read
            self._number(self.rule.again(self._states[at]))
            for word in lexicon.events:
                self._move(at, word)
        words = {word: self._row(word) for word in lexicon.events}
        first: dict[tuple[tuple[bytes, tuple[Hashable, ...]], ...], int] = {}
        alike = bytes(
            first.setdefault(tuple(lexicon.read(pending, byte) for pending in lexicon.pending), byte)
            for byte in range(256)
        )
        return {byte: self._column(read, words) for read, byte in first.items()}, alike

    def _column(self, read: Iterable[tuple[bytes, tuple[Hashable, ...]]], words: dict[Hashable, Codes]) -> Codes:
        """What a byte does that the lexicon reads so, pending by pending."""
        states, rests = np.arange(len(self._states), dtype=np.int32), len(self._pending)
        columns = []
        for left, found in read:
            row = states * 4
            for word in found:
                row = _compose(row, words[word])
            after = (row >> 2) * rests + self._pending[left]
            columns.append(np.where(row & 3 < Verdict.STEP, after * 4 | row & 3, row))
        return np.stack(columns, axis=1).reshape(-1).astype(np.int32)

    def _row(self, word: Hashable) -> Codes:
        """What a word does with the states of the rule."""
        moves = [self._moves[at, word] for at in range(len(self._states))]
        return np.array([verdict if verdict >= Verdict.STEP else 4 * at + verdict for at, verdict in moves], np.int32)

    def _move(self, at: int, word: Hashable) -> tuple[int, Verdict]:
        known = self._moves.get((at, word))
        if known is None:
            after, verdict = self.rule.read(self._states[at], word)
            known = self._moves[at, word] = self._number(after), verdict
        return known

    def _number(self, state: Hashable) -> int:
        number = self._numbers.setdefault(state, len(self._states))
        if number == len(self._states):
            self._states.append(state)
        return number


def _compose(first: Codes, then: Codes) -> Codes:
    """One function after another; what has ended stays so."""
    both = then[first >> 2]
    verdict = np.maximum(first & 3, both & 3)
    goes_on = np.where(verdict < Verdict.STEP, both & ~3, 0)
    return np.where(first & 3 >= Verdict.STEP, first, goes_on | verdict).astype(np.int32)
