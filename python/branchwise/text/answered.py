"""The end of a solution by a model that does not end it: its box is complete, or it goes on to another problem."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from branchwise.text.automaton import Verdict
from branchwise.text.lexicon import LINE_ENDS, WHITE, Lexicon, White

DEEPEST = 12  # as if braces within that many were not there


class Brace(Enum):
    """What a rule of boxes sees beside white space."""

    BOX = auto()
    OPEN = auto()
    CLOSE = auto()
    OTHER = auto()


class Box(NamedTuple):
    """How far the last box is."""

    depth: int = 0  # of its braces
    empty: bool = True
    complete: bool = False


class Boxed:
    """The end of a line with a box that holds something."""

    words = Lexicon[White | Brace](
        {
            **WHITE,
            **dict.fromkeys((b"\\boxed{", b"\\boxed {", b"\\fbox{", b"\\fbox {"), Brace.BOX),
            b"{": Brace.OPEN,
            b"}": Brace.CLOSE,
            **dict.fromkeys((b"\\\\", b"\\{", b"\\}"), Brace.OTHER),
        },
        Brace.OTHER,
    )
    start = Box()

    def read(self, box: Box, word: White | Brace) -> tuple[Box, Verdict]:
        if isinstance(word, White):
            return box, Verdict.SOLUTION if word is White.LINE and box.complete else Verdict.GO
        if not box.depth:
            return Box(depth=1) if word is Brace.BOX else box, Verdict.GO
        if word is Brace.CLOSE and box.depth == 1:
            return Box(complete=not box.empty), Verdict.GO
        deeper = (word in (Brace.OPEN, Brace.BOX)) - (word is Brace.CLOSE)
        return Box(min(DEEPEST, box.depth + deeper), empty=False), Verdict.GO

    def again(self, box: Box) -> Box:
        return box

    def trim(self, begun: Box, data: bytes) -> tuple[bytes, None]:
        return data, None


class Heading(Enum):
    """What a rule of headings sees beside white space."""

    WORD = auto()
    COLON = auto()
    DIGIT = auto()
    RULE = auto()  # what may stand around it
    OTHER = auto()


class Line(Enum):
    """What the line holds so far."""

    BLANK = auto()
    HEADING = auto()  # "Problem", and perhaps a number
    TEXT = auto()


class NextProblem:
    """A line that begins with "Problem:" or "Question:", numbered or in bold; what a solution begins with is none.

    State: whether nothing was seen before this line, and the line.
    """

    words = Lexicon[White | Heading](
        {
            **WHITE,
            **dict.fromkeys((b"Problem", b"PROBLEM", b"Question", b"QUESTION"), Heading.WORD),
            b":": Heading.COLON,
            **{bytes([byte]): Heading.DIGIT for byte in b"0123456789"},
            **{bytes([byte]): Heading.RULE for byte in b"#*>"},
        },
        Heading.OTHER,
    )
    start = (True, Line.BLANK)

    def read(self, state: tuple[bool, Line], word: White | Heading) -> tuple[tuple[bool, Line], Verdict]:
        first, line = state
        if word is White.LINE:
            return (first and line is Line.BLANK, Line.BLANK), Verdict.GO
        if word is White.BLANK:
            return state, Verdict.GO
        if line is Line.HEADING and word is Heading.COLON and not first:
            return state, Verdict.SOLUTION
        if line is Line.BLANK and word is Heading.WORD:
            return (first, Line.HEADING), Verdict.GO
        goes_on = {Line.BLANK: {Heading.RULE}, Line.HEADING: {Heading.RULE, Heading.DIGIT}}
        return (first, line if word in goes_on.get(line, ()) else Line.TEXT), Verdict.GO

    def again(self, state: tuple[bool, Line]) -> tuple[bool, Line]:
        return state

    def trim(self, begun: tuple[bool, Line], data: bytes) -> tuple[bytes, None]:
        """Without the line that begins another problem."""
        line = max(data.rfind(end) + len(end) if end in data else 0 for end in map(str.encode, LINE_ENDS))
        return data[:line], None
