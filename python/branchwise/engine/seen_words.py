"""Which words a branch was given and has written, and how often: what penalties go by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SPARE = 64  # words that may come before the memory grows


class SeenWords:
    """The words of a growing step with those before it, added to token by token: counting anew takes a hundred times
    as long."""

    __slots__ = ("_counts", "_n", "_words")

    def __init__(self, given: Sequence[int] = (), written: Sequence[int] = ()) -> None:
        words, at = np.unique(np.array([*given, *written], np.int32), return_inverse=True)
        self._n = len(words)
        room = np.zeros(SPARE, np.int32)
        self._words = np.concatenate([words, room])
        self._counts = np.concatenate([np.bincount(at[len(given) :], minlength=self._n).astype(np.int32), room])

    @property
    def words(self) -> NDArray[np.int32]:
        """[n], in order; the next `add` may change them."""
        return self._words[: self._n]

    @property
    def counts(self) -> NDArray[np.int32]:
        """[n], times that the branch has written each word; 0: only given."""
        return self._counts[: self._n]

    def add(self, word: int) -> None:
        """The branch has written a word."""
        n = self._n
        at = int(self._words[:n].searchsorted(np.int32(word)))
        if at < n and self._words[at] == word:
            self._counts[at] += 1
            return
        if n == len(self._words):
            self._words, self._counts = (
                np.concatenate([each, np.zeros_like(each)]) for each in (self._words, self._counts)
            )
        for values, new in ((self._words, word), (self._counts, 1)):
            values[at + 1 : n + 1] = values[at:n]
            values[at] = new
        self._n = n + 1
