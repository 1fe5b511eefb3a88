"""How a PRM wants its input: token ids of a problem and of its steps, one by one.

Every format is prefix-extensible: the ids of step k+1 are appended to those of step k and nothing written is ever
changed. So scoring a step again with all that came before gives the same bits as scoring it once, new tokens only; and
the ids of all together are those of the whole text. Where a score needs more than that, such as the end of a turn, it
is read at ids that are fed for it alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from branchwise.errors import TokenizerError
from branchwise.prm_format import NUMBER
from branchwise.text.tokenizer import Tokenizer
from branchwise.text.user_text import encode_guarded, guarded

_OPENINGS = ("Step 1", "so", "12", "(a)", "$x$", "\\frac", "- 3", "= 4", "Да", "解")
_OWN_NUMBER = re.compile(r"Step \d+ ?: *")


class PrmInput(Protocol):
    """Token ids of a problem and of its steps."""

    def prompt(self, problem: str) -> list[int]:
        """Ids before the first step."""
        ...

    def step(self, index: int, text: str) -> list[int]:
        """Ids that step `index` (from 0) adds to what later steps see."""
        ...

    def readings(self, index: int, text: str) -> list[list[int]]:
        """The same step as it is read, one after another, each at its last id; that of `step` alone in most formats.

        The last one gives the score, if the step passed at all before.
        """
        ...

    def is_apart(self, index: int, text: str) -> bool:
        """Whether no token would hold the end of what comes before a step and its beginning, were all one text."""
        ...


class Form(NamedTuple):
    """What is written before a step, with a place for a number where steps are counted, and behind it."""

    lead: str
    end: str


@dataclass(frozen=True, slots=True)
class WrittenSteps:
    """`before problem after`, then `first lead step end`, then `between lead step end` again and again.

    Math-Shepherd: `problem step ки\\nstep ки`, scores at the tags. Qwen2.5-Math-PRM: chat template with the steps as
    the assistant's turn, scores at `<extra_0>` behind each. RLHFlow: a user turn for each step, with the problem in the
    first, and the assistant's verdicts, which are always "+", whatever the scores were; scores just before them.
    Outcome models: the assistant's turn, ended as in `read` wherever it is scored.
    """

    tokenizer: Tokenizer
    before: str
    after: str
    first: str  # between the problem and the first step
    between: str
    form: Form
    read: tuple[Form, ...] = ()  # instead of `form` where a step is read
    bos: bool = False
    marker: tuple[int, str] | None = None  # ends a step, and is nowhere else
    verdict: str = ""  # one token that `between` begins with: how a step ends may depend on it
    pieces: bool = False  # problem, steps and ends are cut into tokens by themselves
    one_line: bool = False

    def prompt(self, problem: str) -> list[int]:
        return self._ids(self.before, problem, self.after, "")

    def step(self, index: int, text: str) -> list[int]:
        ids = self.as_in(self._with_verdict, index, text)
        return ids[:-1] if self.verdict else ids

    def readings(self, index: int, text: str) -> list[list[int]]:
        return [self.as_in(form, index, text) for form in self.read] or [self.step(index, text)]

    def is_apart(self, index: int, text: str) -> bool:
        head = self.step(index - 1, "x") if index else self.prompt("x")
        before = self.written(index - 1, "x", self.form) if index else self.before + "x" + self.after
        body = guarded(self.tokenizer, self._body(text), written=True)
        ids = encode_guarded(
            self.tokenizer, before + self.written(index, body, self._with_verdict),
            after=self._context(index - 1) if index else "", bos=self.bos and not index,
        )  # fmt: skip
        return self.pieces or ids[: len(head)] == head

    def as_in(self, form: Form, index: int, text: str) -> list[int]:
        """Ids of a step that is written in a certain form."""
        return self._ids(self._lead(index, form), self._body(text), form.end, self._context(index))

    def written(self, index: int, body: str, form: Form) -> str:
        """A step, from the end of the one before it."""
        return self._lead(index, form) + body + form.end

    @property
    def is_glued(self) -> bool:
        """Whether nothing stands between the problem and the first step."""
        return not (self.after + self.first + self.form.lead)

    @property
    def _with_verdict(self) -> Form:
        return Form(self.form.lead, self.form.end + self.verdict)

    def _lead(self, index: int, form: Form) -> str:
        """What is written between the step before and this one."""
        return (self.between if index else self.first) + form.lead.replace(NUMBER, str(index + 1))

    def _body(self, text: str) -> str:
        """What is written of a step."""
        text = text.strip()
        if NUMBER in self.form.lead:
            text = _OWN_NUMBER.sub("", text, count=1) if _OWN_NUMBER.match(text) else text
        return text.replace("\n", " ") if self.one_line else text

    def _context(self, index: int) -> str:
        """What comes just before a step."""
        return self.form.end if index else (self.after or "x")

    def _ids(self, lead: str, text: str, tail: str, context: str, also: Collection[str] = ()) -> list[int]:
        """Ids of a step, or without a context of the problem."""
        body = lead + guarded(self.tokenizer, text.strip(), written=bool(context), also=also)
        if self.pieces and context:
            ids = encode_guarded(self.tokenizer, body, after=context)
            ids += self.tokenizer.encode(tail, special=True, after="x") if tail else []
        else:
            ids = encode_guarded(self.tokenizer, body + tail, after=context, bos=self.bos and not context)
        if self.marker is not None and not also:
            id, word = self.marker
            if ids.count(id) > (lead + tail).count(word):
                return self._ids(lead, text, tail, context, [word])
        return ids


def fitted(made: WrittenSteps, name: str) -> WrittenSteps:
    """The same text with white space at its borders moved so that no token crosses one. TokenizerError: impossible.

    A vocabulary may join a space with the word after it, and blank lines with each other or with what is before them.
    """
    # A score is read at the last token of `end`, unless at what comes behind it: then its white space may move, too.
    lead, end = made.form
    is_read = made.form in (made.read or [made.form]) and not made.verdict
    cuts = [(end, made.between)] if is_read else _cuts(end, made.between)
    for after, first in _cuts(made.after, made.first):
        for kept, between in cuts:
            verdict = made.verdict and between[: len(between) - len(made.between)] + made.verdict
            moved = replace(
                made, after=after, first=first, between=between, form=Form(lead, kept), verdict=verdict
            )  # fmt: skip
            if all(_exact(moved, opening) for opening in _OPENINGS):
                return moved
    raise TokenizerError(
        f"PRM format {name}: this tokenizer joins the end of {end!r} with the text after it, so steps cannot be "
        "told apart; choose the format that this PRM was trained with (--prm-format)"
    )


def _cuts(left: str, right: str) -> list[tuple[str, str]]:
    """Two texts, with none, all or the last of the white space between them moved to the right."""
    lengths = dict.fromkeys([len(left), len(left.rstrip()), max(0, len(left) - 1)])
    return [(left[:n], left[n:] + right) for n in lengths if not left[n:].strip()]


def _exact(made: WrittenSteps, text: str) -> bool:
    """Whether ids of the parts are ids of the whole, with its verdicts, wherever a step is scored.

    With nothing between them, problem and first step are cut by themselves: any words may meet there.
    """
    ids, whole = ([], "") if made.is_glued else (made.prompt("What?"), f"{made.before}What?{made.after}")
    verdict = made.tokenizer.encode(made.verdict, special=True, after=made.form.end)[:1] if made.verdict else []
    for index, step in enumerate([text, f"{text} = 5.", text]):
        for form in made.read:
            if not _same(made, ids + made.as_in(form, index, step), whole + made.written(index, step, form)):
                return False
        ids += made.step(index, step)
        whole += made.written(index, step, made.form)
    return _same(made, ids + verdict, whole + made.verdict)


def _same(made: WrittenSteps, ids: list[int], text: str) -> bool:
    bos, after = (False, "x") if made.is_glued else (made.bos, "")
    return ids == made.tokenizer.encode(text, special=True, bos=bos, after=after)
