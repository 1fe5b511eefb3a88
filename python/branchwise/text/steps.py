"""Tells when a step ends: an automaton over token bytes, worked out once per (state, token)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from branchwise.errors import ConfigError
from branchwise.text.tokenizer import Tokenizer

DEFAULT_DELIMITER = "\n\n"


class StepDetector:
    """Finds the delimiter in a growing step, also across tokens, inside tokens and across split characters.

    The delimiter counts only after the first byte of the step that is not ASCII whitespace, so a step that opens with
    blank lines does not end there. State 0 has seen whitespace only; state 1 + k has seen more, and its last k bytes
    are the longest possible beginning of the delimiter (Knuth, Morris and Pratt 1977).
    Raises ConfigError for an empty delimiter.
    """

    start = 0

    def __init__(self, tokenizer: Tokenizer, delimiter: str = DEFAULT_DELIMITER) -> None:
        if not delimiter:
            raise ConfigError("delimiter is empty: give the text that ends a step, such as '\\n\\n'")
        self.delimiter = delimiter
        self._tokenizer = tokenizer
        self._pattern = delimiter.encode()
        self._fallback = _borders(self._pattern)
        self._known: list[dict[int, tuple[int, bool]]] = [{} for _ in range(len(self._pattern) + 1)]

    def advance(self, state: int, token: int) -> tuple[int, bool]:
        """State after `token`, and whether the step ends with it; a step that ended leaves `start` for the next."""
        known = self._known[state]
        result = known.get(token)
        if result is None:
            result = known[token] = self._read(state, self._tokenizer.token_bytes(token))
        return result

    def table(self, words: int) -> NDArray[np.int8]:
        """[words, states] int8: the state after a word, -1 where the step ends with it."""
        known = self._tokenizer.vocab_size
        states = range(len(self._pattern) + 1)
        rows = np.zeros((words, len(states)), np.int8)
        for word in range(min(words, known)):
            data = self._tokenizer.token_bytes(word)
            for state in states:
                after, stopped = self._read(state, data)
                rows[word, state] = -1 if stopped else after
        return rows

    def _read(self, state: int, data: bytes) -> tuple[int, bool]:
        if state == 0:
            data = data.lstrip()
            if not data:
                return 0, False
            state, data = 1, data[1:]
        matched = state - 1
        for byte in data:
            while matched and self._pattern[matched] != byte:
                matched = self._fallback[matched]
            matched += self._pattern[matched] == byte
            if matched == len(self._pattern):
                return self.start, True
        return 1 + matched, False


class StepDetectors(dict[str, StepDetector]):
    """The detector of every delimiter that was ever asked for; each automaton is shared by all trees."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, delimiter: str) -> StepDetector:
        detector = self[delimiter] = StepDetector(self._tokenizer, delimiter)
        return detector


def _borders(pattern: bytes) -> list[int]:
    """For every k: the length of the longest proper prefix of `pattern[:k]` that is also its suffix."""
    borders = [0, 0]
    length = 0
    for byte in pattern[1:]:
        while length and pattern[length] != byte:
            length = borders[length]
        length += pattern[length] == byte
        borders.append(length)
    return borders
