"""The step automaton against a search in the whole text of the step, on random tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from branchwise.errors import ConfigError
from branchwise.text.steps import StepDetector
from branchwise.text.tokenizer import Tokenizer
from text.vocabularies import CONFIG, CORPUS, byte_level, character_level


class Tokens(Tokenizer):
    """A vocabulary that is a list of byte strings."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces

    def token_bytes(self, id: int) -> bytes:
        return self.pieces[id]


def end_slowly(pieces: Sequence[bytes], delimiter: bytes) -> int | None:
    """Index of the token that ends the step: the first one whose text so far has the delimiter behind a word."""
    for count in range(1, len(pieces) + 1):
        text = b"".join(pieces[:count])
        first = next((at for at, byte in enumerate(text) if not bytes([byte]).isspace()), None)
        if first is not None and delimiter in text[first + 1 :]:
            return count - 1
    return None


def end(detector: StepDetector, ids: Sequence[int]) -> int | None:
    state = detector.start
    for at, id in enumerate(ids):
        state, done = detector.advance(state, id)
        if done:
            assert state == detector.start
            return at
    return None


PIECES = st.lists(
    st.text("\n a#é").map(str.encode)
    | st.binary(max_size=3)
    | st.sampled_from([b"\n\n", b"", b"a\n\nb", b"\n\r\n", b" \n"]),
    max_size=14,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    pieces=PIECES,
    delimiter=st.sampled_from(["\n\n", "\n", "#", "a#a", "aab", "abaab", "é", " ки\n", "\nStep", "\n\n\n"]),
)
@example(pieces=[b"\n\n", b"\n", b"a", b"\n", b"\n"], delimiter="\n\n")
@example(pieces=["é".encode()[:1], "é".encode()[1:], "é".encode()[:1], "é".encode()[1:]], delimiter="é")
@example(pieces=[b"aa", b"aa", b"b"], delimiter="aab")
def test_equals_a_search_in_the_text(pieces: list[bytes], delimiter: str) -> None:
    detector = StepDetector(Tokens(pieces), delimiter)
    for _ in range(2):  # the second pass reads remembered answers
        assert end(detector, range(len(pieces))) == end_slowly(pieces, delimiter.encode())


@pytest.mark.parametrize("make", [byte_level, character_level])
@pytest.mark.parametrize("delimiter", ["\n\n", "  ", "e"])
def test_real_tokens_in_random_order(make: object, delimiter: str) -> None:
    assert callable(make)
    tokenizer = Tokenizer.from_json(make().to_str(), CONFIG)
    detector = StepDetector(tokenizer, delimiter)
    source = random.Random(1)
    frequent = [id for text in CORPUS for id in tokenizer.encode(text)]
    found = 0
    for _ in range(200):
        ids = source.choices(frequent, k=90) + source.choices(range(tokenizer.vocab_size), k=10)
        expected = end_slowly([tokenizer.token_bytes(id) for id in ids], delimiter.encode())
        assert end(detector, ids) == expected
        found += expected is not None
    assert found >= 5


def test_special_tokens_change_nothing() -> None:
    tokenizer = Tokenizer.from_json(byte_level().to_str(), CONFIG)
    detector = StepDetector(tokenizer)
    (special,) = tokenizer.encode("<|im_start|>", special=True)
    (newline,) = tokenizer.encode("\n")
    state, _ = detector.advance(detector.start, tokenizer.encode("x")[0])
    state, done = detector.advance(state, newline)
    assert not done
    assert detector.advance(state, special) == (state, False)
    assert detector.advance(state, newline) == (detector.start, True)


def test_empty_delimiter() -> None:
    with pytest.raises(ConfigError, match="delimiter is empty"):
        StepDetector(Tokens([]), "")
