"""How a PRM wants its input: token ids of a problem and of its steps, one by one.

Every format is prefix-extensible: the ids of step k+1 are appended to those of step k and nothing written is ever
changed. The score of a step is read at the last id that its `step` returns. So scoring a step again with all that came
before gives the same bits as scoring it once, new tokens only; and the ids of all together are those of the whole text.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Protocol

from branchwise.errors import InputError, TokenizerError
from branchwise.text.chat import render_chat
from branchwise.text.tokenizer import Tokenizer
from branchwise.text.user_text import encode_guarded, guarded

STEP_BY_STEP = "Please reason step by step, and put your final answer within \\boxed{}."
_PLACE = "\x11PLACE{}\x11"  # stands for a turn's text while a chat template is taken apart
_OPENINGS = ("Step 1", "so", "12", "(a)", "$x$", "\\frac", "- 3", "= 4", "Да", "解")


class PrmFormat(Protocol):
    """Token ids of a problem and of its steps."""

    def prompt(self, problem: str) -> list[int]:
        """Ids before the first step."""
        ...

    def step(self, index: int, text: str) -> list[int]:
        """Ids that step `index` (from 0) adds; the score is read at the last one."""
        ...


@dataclass(frozen=True, slots=True)
class RunningFormat:
    """One running text: `before problem after`, then `first step end`, then `between step end` again and again.

    Math-Shepherd: `problem step ки\\nstep ки`, scores at the tags. Qwen2.5-Math-PRM: chat template with the steps as
    the assistant's turn, scores at `<extra_0>` behind each. RLHFlow: a user turn for each step, with the problem in the
    first, and the assistant's verdicts, which are always "+", whatever the scores were; scores just before them.
    """

    tokenizer: Tokenizer
    before: str
    after: str
    first: str
    between: str
    end: str
    bos: bool = False
    tag: tuple[int, str] | None = None  # ends a step, and is nowhere else
    verdict: str = ""  # one token that `between` begins with: how a step ends may depend on it

    def prompt(self, problem: str) -> list[int]:
        return self._ids(self.before, problem, self.after, "")

    def step(self, index: int, text: str) -> list[int]:
        lead, context = (self.between, self.end) if index else (self.first, self.after or "x")
        ids = self._ids(lead, text, self.end + self.verdict, context)
        return ids[:-1] if self.verdict else ids

    def _ids(self, lead: str, text: str, tail: str, context: str, also: Collection[str] = ()) -> list[int]:
        """Ids of a step, or without a context of the problem."""
        body = guarded(self.tokenizer, text.strip(), written=bool(context), also=also)
        ids = encode_guarded(self.tokenizer, lead + body + tail, after=context, bos=self.bos and not context)
        if self.tag is not None and not also and self.tag[0] in (ids[:-1] if context else ids):
            return self._ids(lead, text, tail, context, [self.tag[1]])
        return ids


@dataclass(frozen=True, slots=True)
class PieceFormat:
    """`problem`, then steps, each with a separator behind it and cut into tokens without it; scores there.

    Skywork: bos, one line for each step. TRL's PRMTrainer: two newlines between steps, or one.
    """

    tokenizer: Tokenizer
    separator: str
    one_line: bool = False

    def prompt(self, problem: str) -> list[int]:
        text = guarded(self.tokenizer, problem.strip()) + self.separator
        return encode_guarded(self.tokenizer, text, bos=self.tokenizer.bos_id is not None)

    def step(self, index: int, text: str) -> list[int]:
        text = text.strip().replace("\n", " ") if self.one_line else text.strip()
        text = guarded(self.tokenizer, text, written=True)
        ids = encode_guarded(self.tokenizer, text, after=self.separator)
        return [*ids, *self.tokenizer.encode(self.separator, after="x")]


def tag_format(tokenizer: Tokenizer) -> tuple[PrmFormat, int, int]:
    """Math-Shepherd's format, and its words for good and bad."""
    name = "math-shepherd"
    tag = _last_of(tokenizer, " ки", name)
    made = RunningFormat(tokenizer, "", "", " ", "\n", " ки", bos=tokenizer.add_bos, tag=(tag, "ки"))
    return _checked(made, name), _last_of(tokenizer, " +", name), _last_of(tokenizer, " -", name)


def marker_format(tokenizer: Tokenizer, source: str) -> PrmFormat:
    """Qwen2.5-Math-PRM's format."""
    marker = "<extra_0>"
    id = tokenizer.token_id(marker)
    if id is None or tokenizer.encode(marker, special=True, after="x") != [id]:
        raise TokenizerError(
            f"{source}: this PRM marks steps with {marker!r}, which its tokenizer lacks; "
            "use the tokenizer files that came with the PRM"
        )
    roles = {"system": STEP_BY_STEP, "user": _PLACE.format(0), "assistant": _PLACE.format(1)}
    before, after, _ = _template_parts(tokenizer, [{"role": role, "content": text} for role, text in roles.items()])
    return _checked(RunningFormat(tokenizer, before, after, "", "", marker, tag=(id, marker)), "qwen-prm")


def turn_format(tokenizer: Tokenizer) -> tuple[PrmFormat, int, int]:
    """RLHFlow's format, and its words for good and bad, which are verdicts."""
    roles = ("user", "assistant") * 2
    messages = [{"role": role, "content": _PLACE.format(index)} for index, role in enumerate(roles)]
    before, end, to_user, again, _ = _template_parts(tokenizer, messages)
    if again != end:
        raise TokenizerError("the chat template ends later user turns otherwise than the first: choose another PRM")
    made = _checked(RunningFormat(tokenizer, before, "", " ", "+" + to_user, end, verdict="+"), "rlhflow")
    good, bad = (_last_of(tokenizer, made.verdict.replace("+", word), "rlhflow", made.end) for word in "+-")
    return made, good, bad


def _template_parts(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> list[str]:
    """What a chat template writes around the places in messages."""
    places = [message["content"] for message in messages if message["content"].startswith(_PLACE[0])]
    try:
        rest = render_chat(tokenizer, messages, add_generation_prompt=False)
    except InputError as refusal:
        raise TokenizerError(f"{refusal}: use the files that came with the PRM, or another prm_format") from None
    parts = []
    for place in places:
        if rest.count(place) != 1:
            raise TokenizerError(
                "the chat template drops or repeats a turn, so steps cannot be judged through it: use the tokenizer "
                "files that came with the PRM, or another prm_format"
            )
        part, rest = rest.split(place)
        parts.append(part)
    return [*parts, rest]


def _checked(made: RunningFormat, name: str) -> RunningFormat:
    """The format, with white space at its borders moved so that no token crosses one. TokenizerError: there is no way.

    A vocabulary may join a space with the word after it, and blank lines with each other or with what is before them.
    """
    for cut in _cuts(made.after, made.first):
        for back in _cuts(made.end, made.between):
            space = back[1][: len(back[1]) - len(made.between)]
            verdict = made.verdict and space + made.verdict
            moved = replace(made, after=cut[0], first=cut[1], end=back[0], between=back[1], verdict=verdict)
            if all(_exact(moved, opening) for opening in _OPENINGS):
                return moved
    raise TokenizerError(
        f"PRM format {name!r}: this tokenizer joins the end of {made.end!r} with the text after it, so steps cannot be "
        "told apart; choose the format that this PRM was trained with (--prm-format)"
    )


def _cuts(left: str, right: str) -> list[tuple[str, str]]:
    """Two texts, with none, all or the last of the white space between them moved to the right."""
    lengths = dict.fromkeys([len(left), len(left.rstrip()), max(0, len(left) - 1)])
    return [(left[:n], left[n:] + right) for n in lengths if not left[n:].strip()]


def _exact(made: RunningFormat, text: str) -> bool:
    """Whether ids of the parts are ids of the whole, with its verdicts."""
    steps = [text, f"{text} = 5.", text]
    ids = made.prompt("What?")
    whole = f"{made.before}What?{made.after}"
    for index, step in enumerate(steps):
        ids += made.step(index, step)
        whole += (made.between if index else made.first) + step + made.end
    return ids + _verdict(made) == made.tokenizer.encode(whole + made.verdict, special=True, bos=made.bos)


def _verdict(made: RunningFormat) -> list[int]:
    return made.tokenizer.encode(made.verdict, special=True, after=made.end)[:1] if made.verdict else []


def _last_of(tokenizer: Tokenizer, word: str, name: str, after: str = "x") -> int:
    """The id that a word ends in where it stands behind another one. TokenizerError when it has several."""
    id = tokenizer.encode(word, after=after, special=True)[-1]
    if tokenizer.token_bytes(id).strip() != word.strip().encode():
        raise _not_one(tokenizer, word.strip(), name)
    return id


def _not_one(tokenizer: Tokenizer, word: str, name: str) -> TokenizerError:
    return TokenizerError(
        f"PRM format {name!r} needs {word!r} as one token each, but this tokenizer splits it into "
        f"{len(tokenizer.encode(word))}; choose the format that this PRM was trained with (--prm-format)"
    )
