"""Tells when a step ends, and when a solution does: automata over token bytes, worked out once per (state, token)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from branchwise.text.answered import Boxed, NextProblem
from branchwise.text.automaton import Automaton, Codes, Rule, Verdict
from branchwise.text.literal import Literal
from branchwise.text.paragraph import Paragraph
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Endings

State = tuple[int, ...]

MOST_DETECTORS = 256  # kept: each client may have stops of its own
NOTHING_ENDS = Endings((), ignore_eos=True)
STEP, SOLUTION = -1, -2  # in a `WordTable`, in place of the state after a word
WAIT = 1 << 14  # on top of it: the step could end, but something is open


@dataclass(frozen=True, slots=True)
class WordTable:
    """The automata of a detector side by side, as a table for a device.

    functions [words] int32: the row of a word    transitions [functions, states] int16: the state after it, STEP,
    SOLUTION or a state + WAIT    first: where the states of each automaton begin
    """

    functions: NDArray[np.int32]
    transitions: NDArray[np.int16]
    first: tuple[int, ...]


class StepDetector:
    """Finds the end of a growing step, also across tokens, inside tokens and across split characters.

    Its state is one of each automaton: what ends steps, then what ends solutions. The first begins anew with every
    step, the others see a branch as one text.
    """

    def __init__(self, tokenizer: Tokenizer, endings: Endings | None = None) -> None:
        self.endings = Endings() if endings is None else endings
        eos_ids = () if self.endings.ignore_eos else tokenizer.eos_ids
        self.ends = frozenset([*eos_ids, *self.endings.stop_tokens])  # tokens that end the solution
        self._tokenizer = tokenizer
        self._automata = [Automaton(rule) for rule in _rules(self.endings)]
        self._known: defaultdict[State, dict[int, tuple[State, Verdict]]] = defaultdict(dict)
        self.start: State = (0,) * len(self._automata)

    def advance(self, state: State, token: int) -> tuple[State, Verdict]:
        """State after a token, and what follows from it."""
        known = self._known[state]
        result = known.get(token)
        if result is None:
            result = known[token] = self._read(state, token)
        return result

    def next_step(self, state: State) -> State:
        """Where a child begins of a step that ended in a state."""
        return tuple(automaton.again(each) for automaton, each in zip(self._automata, state, strict=True))

    def skip(self, state: State, tokens: Sequence[int]) -> State:
        """State after tokens that end nothing, whatever they say."""
        data = b"".join(map(self._tokenizer.token_bytes, tokens))
        return tuple(automaton.skip(each, data) for automaton, each in zip(self._automata, state, strict=True))

    def ending(self, begun: State, tokens: Sequence[int]) -> tuple[str, str | int | None]:
        """Text of a step that began in a state and whose last token ended the solution; the stop that did, if one did.

        What ends a solution is no part of its text unless `include_stop` says so, and what follows it never is.
        """
        keep, last = self.endings.include_stop, tokens[-1]
        before, data = (b"".join(map(self._tokenizer.token_bytes, part)) for part in (tokens[:-1], tokens[-1:]))
        found: list[tuple[bytes, str | int | None]] = []
        if last in self.ends:
            is_eos = last in self._tokenizer.eos_ids and not self.endings.ignore_eos
            found = [(before + data, None) if is_eos else (before + data if keep else before, last)]
        else:
            for automaton, start in zip(self._automata[1:], begun[1:], strict=True):
                _, verdict, count = automaton.read(automaton.skip(start, before), data)
                if verdict is Verdict.SOLUTION:
                    text, stop = automaton.trim(start, before + data[:count])
                    found.append((before + data[:count] if keep else text, stop))
        kept, stopped_by = min(found, key=lambda each: len(each[0]))
        return kept.decode("utf-8", errors="replace"), stopped_by

    def table(self, words: int) -> WordTable:
        """All transitions of so many words; those beyond the vocabulary change nothing."""
        known = self._tokenizer.vocab_size
        texts = [self._tokenizer.token_bytes(word) if word < known else b"" for word in range(words)]
        pairs = [automaton.functions(texts) for automaton in self._automata]
        first = np.cumsum([0, *(codes.shape[1] for _, codes in pairs)])
        columns = [_coded(codes, begin) for (_, codes), begin in zip(pairs, first, strict=False)]
        mixed = np.zeros(words, np.int64)
        for which, codes in pairs:
            mixed = mixed * len(codes) + which
        _, examples, functions = np.unique(mixed, return_index=True, return_inverse=True)
        rows = [column[which[examples]] for column, (which, _) in zip(columns, pairs, strict=True)]
        over = np.full((1, first[-1]), SOLUTION, np.int16)
        table = np.concatenate([np.concatenate(rows, axis=1), over])
        functions[[word for word in self.ends if word < words]] = len(examples)
        return WordTable(functions.astype(np.int32), table, tuple(first[:-1].tolist()))

    def _read(self, state: State, token: int) -> tuple[State, Verdict]:
        if token in self.ends:
            return state, Verdict.SOLUTION
        data = self._tokenizer.token_bytes(token)
        read = [automaton.read(each, data) for automaton, each in zip(self._automata, state, strict=True)]
        return tuple(after for after, _, _ in read), max(verdict for _, verdict, _ in read)


class StepDetectors(dict[Endings, StepDetector]):
    """The detectors of the endings that were asked for last; each is shared by all trees."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __getitem__(self, endings: Endings) -> StepDetector:
        detector = self.pop(endings, None) or StepDetector(self._tokenizer, endings)
        while len(self) >= MOST_DETECTORS:
            del self[next(iter(self))]
        self[endings] = detector
        return detector


def _rules(endings: Endings) -> list[Rule]:
    delimiters = endings.delimiters
    rules: list[Rule] = [Paragraph() if delimiters is None else Literal(delimiters, Verdict.STEP)]
    if endings.stops:
        rules.append(Literal(endings.stops, Verdict.SOLUTION))
    if endings.at_answer:
        rules += [Boxed(), NextProblem()]
    return rules


def _coded(codes: Codes, first: int) -> NDArray[np.int16]:
    """Functions as values of a `WordTable`, the states counted from `first`."""
    verdict = codes & 3
    state = (codes >> 2) + first + WAIT * (verdict == Verdict.WAIT)
    return np.select([verdict == Verdict.STEP, verdict == Verdict.SOLUTION], [STEP, SOLUTION], state).astype(np.int16)
