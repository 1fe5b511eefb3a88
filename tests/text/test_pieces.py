"""Pieces of a growing text: joined they are the text, and none of them was too early."""

from __future__ import annotations

import random

from branchwise.text.pieces import Pieces
from branchwise.types import Endings
from engine.test_stops import CONTEXT, PIECES, slow_sample, some_case
from text.step_tools import Tokens


def test_pieces_of_random_streams_joined_are_their_texts() -> None:
    """10,000 streams, told after any number of tokens: whole characters, and no piece of what a stop cuts off."""
    source, held = random.Random(0), 0
    for number in range(2500):
        case = some_case(number, 4)
        for i in range(case.n):
            tokens, text, _, _ = slow_sample(case.seed + i, case.options, CONTEXT - len(case.prompt))
            pieces, shown, at = Pieces(Tokens(PIECES), case.options.endings), "", 0
            while at < len(tokens) - 1:
                step = source.randint(1, 3)
                shown += pieces.add(tokens[at : min(at + step, len(tokens) - 1)])
                at += step
                assert text.startswith(shown)
                held += len(shown.encode()) < len(b"".join(PIECES[token] for token in tokens[:at]))
            assert shown + pieces.rest(text) == text
    assert held > 1000


def test_what_is_held_back() -> None:
    tokens = Tokens([b"a", b"\xe2\x82", b"\xac", b"en", b"d", b"x", b"enden"])
    pieces = Pieces(tokens, Endings((), ("end", "a€x")))
    shown = [pieces.add([id]) for id in (5, 0, 1, 2, 0, 3, 5, 6)]
    assert shown == ["x", "", "", "", "a€", "a", "enx", "end"]
    included = Pieces(tokens, Endings((), ("end",), include_stop=True))
    assert [included.add([id]) for id in (3, 1, 2)] == ["en", "", "€"]
    assert included.rest("en€d") == "d"
