"""From a layout and a tokenizer to token ids: the parts of templates, markers, and words that a head compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from branchwise.errors import InputError, TokenizerError
from branchwise.prm_format import EOS, PROBLEM, STEP, STEPS, TURN_END, WORD, Chat, Layout, Text, Turns
from branchwise.scoring.inputs import Form, PrmInput, WrittenSteps, fitted
from branchwise.text.chat import render_chat
from branchwise.text.tokenizer import Tokenizer

_PLACE = "\x11PLACE{}\x11"  # stands for a turn's text while a chat template is taken apart


@dataclass(frozen=True, slots=True)
class Written:
    """A layout in the words of one tokenizer."""

    input: PrmInput
    tokenizer: Tokenizer
    name: str  # of the format, for messages
    before_word: str  # what a word that judges a step stands behind
    verdict: str = ""  # the good one, as it is written

    def word(self, text: str) -> int:
        """The id that a judging word ends in. TokenizerError when the vocabulary splits it."""
        text = self.verdict.replace(self.verdict.strip(), text.strip()) if self.verdict else text
        return _last_of(self.tokenizer, text, self.name, self.before_word)


def written(layout: Layout, tokenizer: Tokenizer, name: str) -> Written:
    """TokenizerError: this vocabulary or chat template is not the PRM's."""
    if isinstance(layout, Text):
        return _text(layout, tokenizer, name)
    return _chat(layout, tokenizer, name) if isinstance(layout, Chat) else _turns(layout, tokenizer, name)


def _text(layout: Text, tokenizer: Tokenizer, name: str) -> Written:
    before, after = layout.problem.split(PROBLEM)
    form, *read = _forms(layout, tokenizer, name, "")
    bos = tokenizer.bos_id is not None if layout.pieces else tokenizer.add_bos
    made = WrittenSteps(
        tokenizer, before, after, "", layout.between, form, tuple(read), bos, _marker(tokenizer, layout, name),
        pieces=layout.pieces, one_line=layout.one_line,
    )  # fmt: skip
    return Written(made if layout.pieces else fitted(made, name), tokenizer, name, "x")


def _chat(layout: Chat, tokenizer: Tokenizer, name: str) -> Written:
    marker = _marker(tokenizer, layout, name)
    messages = [{"role": role, "content": content} for role, content in layout.messages]
    for message in messages:
        for index, place in enumerate((PROBLEM, STEPS, WORD)):
            message["content"] = message["content"].replace(place, _PLACE.format(index))
    n_places = 2 + any(WORD in content for _, content in layout.messages)
    before, after, turn_end, *_ = _template_parts(tokenizer, messages, n_places)
    form, *read = _forms(layout, tokenizer, name, turn_end)
    made = WrittenSteps(tokenizer, before, after, "", layout.between, form, tuple(read), marker=marker)
    return Written(fitted(made, name), tokenizer, name, [form, *read][-1].end or "x")


def _turns(layout: Turns, tokenizer: Tokenizer, name: str) -> Written:
    start, gap = layout.first.removesuffix(STEP).split(PROBLEM)
    contents = [start + _PLACE.format(0), *map(_PLACE.format, (1, 2, 3))]
    messages = [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(contents)]
    before, end, to_user, again, _ = _template_parts(tokenizer, messages, 4)
    if again != end:
        raise TokenizerError("the chat template ends later user turns otherwise than the first: choose another PRM")
    verdict = layout.verdict
    made = fitted(WrittenSteps(tokenizer, before, "", gap, verdict + to_user, Form("", end), verdict=verdict), name)
    return Written(made, tokenizer, name, made.form.end, made.verdict)


def _forms(layout: Text | Chat, tokenizer: Tokenizer, name: str, turn_end: str) -> list[Form]:
    """How a step is written, and how where it is read, if that is otherwise anywhere."""

    def form(text: str) -> Form:
        lead, end = text.split(STEP)
        end = end.replace(TURN_END, turn_end)
        if EOS in end:
            eos = tokenizer.named_tokens.get("eos_token")
            if not eos:
                raise TokenizerError(f"PRM format {name} ends in the end-of-sequence token, which this tokenizer lacks")
            end = end.replace(EOS, eos)
        return Form(lead, end)

    step = Form(*layout.step.split(STEP))
    read = [*map(form, layout.checks), step if layout.last is None else form(layout.last)]
    return [step] if read == [step] else [step, *read]


def _marker(tokenizer: Tokenizer, layout: Text | Chat, name: str) -> tuple[int, str] | None:
    if not layout.marker:
        return None
    behind = layout.step.split(STEP)[1]
    return _last_of(tokenizer, behind, name, word=layout.marker), layout.marker.strip()


def _template_parts(tokenizer: Tokenizer, messages: Sequence[dict[str, str]], n_places: int) -> list[str]:
    """What a chat template writes around the places in messages."""
    try:
        rest = render_chat(tokenizer, messages, add_generation_prompt=False)
    except InputError as refusal:
        raise TokenizerError(f"{refusal}: use the files that came with the PRM, or another prm_format") from None
    parts = []
    for place in map(_PLACE.format, range(n_places)):
        if rest.count(place) != 1:
            raise TokenizerError(
                "the chat template drops or repeats a turn, so steps cannot be judged through it: use the tokenizer "
                "files that came with the PRM, or another prm_format"
            )
        part, rest = rest.split(place)
        parts.append(part)
    return [*parts, rest]


def _last_of(tokenizer: Tokenizer, text: str, name: str, after: str = "x", word: str = "") -> int:
    """The id that a text ends in where it stands behind another one: all of its last word. TokenizerError else."""
    word = (word or text).strip()
    id = tokenizer.encode(text, after=after, special=True)[-1]
    if tokenizer.token_id(word) != id and tokenizer.token_bytes(id).strip() != word.encode():
        raise TokenizerError(
            f"PRM format {name} needs {word!r} as one token, but this tokenizer splits it into "
            f"{len(tokenizer.encode(word, special=True))}; use the tokenizer files that came with the PRM, or choose "
            "the format that it was trained with (--prm-format)"
        )
    return id
