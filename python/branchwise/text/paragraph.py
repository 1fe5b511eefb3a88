"""The default end of a step: a blank line, while no code fence, formula or environment is open."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from branchwise.text.automaton import Verdict
from branchwise.text.lexicon import WHITE, Lexicon, White

LONGEST_FENCE = 5  # as if longer ones were this long
DEEPEST = 4  # as if environments within that many were not there


class Mark(Enum):
    """What a rule of paragraphs sees beside white space."""

    TICK = auto()
    TILDE = auto()
    QUOTE = auto()
    LIST = auto()  # what may stand before a fence in its line
    BEGIN = auto()
    END = auto()
    DOLLARS = auto()
    OTHER = auto()


Event = White | Mark
_WORDS: dict[bytes, Event] = {
    **WHITE,
    b"`": Mark.TICK,
    b"~": Mark.TILDE,
    b">": Mark.QUOTE,
    **{bytes([byte]): Mark.LIST for byte in b"-+*.)0123456789"},
    b"\\begin{": Mark.BEGIN,
    b"\\[": Mark.BEGIN,
    b"\\end{": Mark.END,
    b"\\]": Mark.END,
    b"$$": Mark.DOLLARS,
    **dict.fromkeys((b"\\\\", b"\\$", b"\\`"), Mark.OTHER),  # so that \\[2pt] is a line break and opens nothing
}


class Line(Enum):
    """What the line holds so far."""

    BLANK = auto()
    MARGIN = auto()  # marks of lists and quotes
    RUN = auto()  # ticks or tildes at its beginning
    INFO = auto()  # a fence, and what follows it
    CLOSED = auto()  # in a fence: its end, and blanks
    CODE = auto()  # within single ticks
    TEXT = auto()


class State(NamedTuple):
    """Where a step is: what it has open, and what its last line holds."""

    seen: bool = False  # anything that is not white space
    open: str = ""  # the mark of a fence, "$", or a backslash for environments
    depth: int = 0  # length of the fence, or how many environments
    line: Line = Line.BLANK
    mark: str = ""  # of a run, or of a fence that begins in this line
    run: int = 0  # its length


_FENCES = {Mark.TICK: "`", Mark.TILDE: "~"}


class Paragraph:
    """A blank line, or one of white space, ends the step; where something is open it only could.

    Fences open and close as in CommonMark, at the beginning of a line, also within lists and quotes; `\\[`, `\\begin{`
    and `$$` do anywhere but in code. After a step that ended within a fence the next one goes on in it; formulas are
    forgotten, for what never closes was none.
    """

    words = Lexicon[Event](_WORDS, Mark.OTHER)
    start = State()

    def read(self, state: State, word: Event) -> tuple[State, Verdict]:
        if word is White.LINE:
            return _end_of_line(state)
        if word is White.BLANK:
            return _settled(state) if state.line is Line.RUN else state, Verdict.GO
        assert isinstance(word, Mark)
        state = state._replace(seen=True)
        if state.open in _FENCES.values():
            return _in_fence(state, word), Verdict.GO
        return _in_formula(state, word) if state.open else _in_text(state, word), Verdict.GO

    def again(self, state: State) -> State:
        in_fence = state.open in _FENCES.values()
        return State(open=state.open, depth=state.depth) if in_fence else self.start

    def trim(self, begun: State, data: bytes) -> tuple[bytes, None]:
        return data, None


def _end_of_line(state: State) -> tuple[State, Verdict]:
    if state.line is Line.BLANK and state.seen:
        return state, Verdict.WAIT if state.open else Verdict.STEP
    if state.line is Line.RUN:
        state = _settled(state)
    after = state._replace(line=Line.BLANK, mark="", run=0)
    if state.line is Line.INFO:
        after = after._replace(open=state.mark, depth=state.run)
    elif state.line is Line.CLOSED:
        after = after._replace(open="", depth=0)
    return after, Verdict.GO


def _settled(state: State) -> State:
    """A run of ticks or tildes has ended."""
    if state.open:
        line = Line.CLOSED if state.run >= state.depth else Line.TEXT
    elif state.run >= 3:
        return state._replace(line=Line.INFO)
    else:
        line = Line.CODE if (state.mark, state.run) == ("`", 1) else Line.TEXT
    return state._replace(line=line, mark="", run=0)


def _running(state: State, mark: str) -> State:
    """One more tick or tilde of a run."""
    run = state.run + 1 if state.line is Line.RUN else 1
    return state._replace(line=Line.RUN, mark=mark, run=min(run, LONGEST_FENCE))


def _in_fence(state: State, event: Mark) -> State:
    at_margin = state.line in (Line.BLANK, Line.MARGIN)
    if _FENCES.get(event) == state.open and (at_margin or state.line is Line.RUN):
        return _running(state, state.open)
    if event is Mark.QUOTE and at_margin:
        return state._replace(line=Line.MARGIN)
    return state._replace(line=Line.TEXT, mark="", run=0)


def _in_formula(state: State, event: Mark) -> State:
    depth = state.depth
    if state.open == "$":
        depth -= event is Mark.DOLLARS
    else:
        depth = min(DEEPEST, depth + (event is Mark.BEGIN) - (event is Mark.END))
    return state._replace(open=state.open if depth else "", depth=depth, line=Line.TEXT)


def _in_text(state: State, event: Mark) -> State:
    at_margin = state.line in (Line.BLANK, Line.MARGIN)
    if event in _FENCES and (at_margin or (state.line is Line.RUN and state.mark == _FENCES[event])):
        return _running(state, _FENCES[event])
    if event in (Mark.LIST, Mark.QUOTE) and at_margin:
        return state._replace(line=Line.MARGIN)
    if state.line is Line.RUN:
        state = _settled(state)
    if state.line is Line.INFO:  # a tick in it: it was code within three ticks
        inline = event is Mark.TICK and state.mark == "`"
        return state._replace(line=Line.TEXT, mark="", run=0) if inline else state
    if event is Mark.TICK:
        return state._replace(line=Line.TEXT if state.line is Line.CODE else Line.CODE)
    if state.line is Line.CODE:
        return state
    state = state._replace(line=Line.TEXT)
    opened = {Mark.BEGIN: "\\", Mark.DOLLARS: "$"}.get(event)
    return state._replace(open=opened, depth=1) if opened else state
