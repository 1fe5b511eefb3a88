"""A vocabulary of byte strings, and what a detector says of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from branchwise.text.automaton import Verdict
from branchwise.text.steps import SOLUTION, STEP, WAIT, StepDetector
from branchwise.text.tokenizer import Tokenizer


class Tokens(Tokenizer):
    """A vocabulary that is a list of byte strings."""

    eos_ids = frozenset()

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces
        self.vocab_size = len(pieces)

    def token_bytes(self, id: int) -> bytes:
        return self.pieces[id]


def verdicts(detector: StepDetector, ids: Sequence[int]) -> list[Verdict]:
    """Of every token up to an end."""
    found, state = [], detector.start
    for id in ids:
        state, verdict = detector.advance(state, id)
        found.append(verdict)
        if verdict >= Verdict.STEP:
            break
    return found


def by_device(detector: StepDetector, ids: Sequence[int]) -> list[Verdict]:
    """The same from the table, as a device reads it."""
    table = detector.table(len(detector._tokenizer.pieces) + 1)
    found, states = [], np.array(table.first) + detector.start
    for id in ids:
        after = table.transitions[table.functions[id], states]
        low = after.min()
        waits = (after >= WAIT).any()
        found.append({STEP: Verdict.STEP, SOLUTION: Verdict.SOLUTION}.get(int(low), Verdict(int(waits))))
        if low < 0:
            break
        states = after % WAIT
    return found


def tokens_at(pieces: Sequence[bytes], marks: dict[int | None, Verdict]) -> list[Verdict]:
    """Verdicts of tokens from those of places in the text."""
    found, at = [], 0
    for piece in pieces:
        inside = range(at + 1, at + len(piece) + 1)
        at += len(piece)
        found.append(max((verdict for place, verdict in marks.items() if place in inside), default=Verdict.GO))
        if found[-1] >= Verdict.STEP:
            break
    return found


def length_of(text: str, characters: int) -> int:
    return len(text[:characters].encode("utf-8", errors="surrogateescape"))


def end_of_branch(detector: StepDetector, ids: Sequence[int]) -> tuple[list[str], bool]:
    """Texts of the steps of a branch, and whether its solution ended."""
    steps, state, begun = [], detector.start, 0
    start = state
    for at, id in enumerate(ids):
        state, verdict = detector.advance(state, id)
        if verdict >= Verdict.STEP or at == len(ids) - 1:
            step = ids[begun : at + 1]
            text = b"".join(map(detector._tokenizer.token_bytes, step)).decode(errors="replace")
            steps.append(detector.ending(start, step)[0] if verdict is Verdict.SOLUTION else text)
            start = state = detector.next_step(state)
            begun = at + 1
        if verdict is Verdict.SOLUTION:
            return steps, True
    return steps, False
