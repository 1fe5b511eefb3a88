"""How each family of PRMs wants its input: `PRM_FORMATS`, chosen by tensor names and tokenizer probes, never by path.

Every format is prefix-extensible: the ids of step k+1 are appended to those of step k and nothing written is ever
changed, each step being tokenised by itself. The score of a step is read at the last id that its `step` returns. So
scoring a step again with all that came before gives the same bits as scoring it once, new tokens only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from branchwise.errors import ConfigError, TokenizerError
from branchwise.models.families import DecoderConfig
from branchwise.scoring.heads import MLP_TENSORS, VALUE_TENSORS, Head, mlp_head, pair_head, value_head
from branchwise.text.chat import render_chat
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Message
from branchwise.weights.checkpoint import Checkpoint

STEP_BY_STEP = "Please reason step by step, and put your final answer within \\boxed{}."
_PLACE = "\x11PLACE{}\x11"  # stands for a turn's text while a chat template is taken apart


class PrmFormat(Protocol):
    """Token ids of a problem and of its steps, one by one."""

    def prompt(self, problem: str) -> list[int]:
        """Ids before the first step."""
        ...

    def step(self, index: int, text: str) -> list[int]:
        """Ids that step `index` (from 0) adds; the score is read at the last one."""
        ...


@dataclass(frozen=True, slots=True)
class TagFormat:
    """Math-Shepherd: `"{problem} {step} ки\\n{step} ки"`, no chat template; the score sits at the tag."""

    tokenizer: Tokenizer
    tag: int

    def prompt(self, problem: str) -> list[int]:
        return self.tokenizer.encode(problem.strip(), bos=self.tokenizer.bos_id is not None)

    def step(self, index: int, text: str) -> list[int]:
        return [*self.tokenizer.encode(("\n" if index else " ") + text.strip()), self.tag]


@dataclass(frozen=True, slots=True)
class TurnFormat:
    """RLHFlow: steps are user turns, verdicts "+" assistant turns; the score sits just before the verdict.

    The first turn holds problem and first step. Every earlier verdict is "+", whatever its score was.
    """

    tokenizer: Tokenizer
    before: str  # template text before the first user turn's content
    to_verdict: list[int]  # from the end of a user turn to its verdict
    to_user: list[int]  # a "+" verdict and all template text up to the next user turn's content

    def prompt(self, problem: str) -> list[int]:
        return self.tokenizer.encode(self.before + problem.strip(), special=True)

    def step(self, index: int, text: str) -> list[int]:
        start = self.to_user if index else []
        text = text.strip() if index else " " + text.strip()
        return [*start, *self.tokenizer.encode(text), *self.to_verdict]


@dataclass(frozen=True, slots=True)
class MarkerFormat:
    """Qwen2.5-Math-PRM: chat template, then `step<extra_0>step<extra_0>` as the assistant; scores at the markers."""

    tokenizer: Tokenizer
    marker: int

    def prompt(self, problem: str) -> list[int]:
        messages: list[Message] = [
            {"role": "system", "content": STEP_BY_STEP},
            {"role": "user", "content": problem.strip()},
        ]
        return self.tokenizer.encode(render_chat(self.tokenizer, messages), special=True)

    def step(self, index: int, text: str) -> list[int]:
        return [*self.tokenizer.encode(text.strip()), self.marker]


@dataclass(frozen=True, slots=True)
class NewlineFormat:
    """Skywork: `bos + problem + "\\n"`, then one line a step; the score sits at the newline that ends it."""

    tokenizer: Tokenizer
    newline: int

    def prompt(self, problem: str) -> list[int]:
        return self.tokenizer.encode(problem.strip() + "\n", bos=self.tokenizer.bos_id is not None)

    def step(self, index: int, text: str) -> list[int]:
        return [*self.tokenizer.encode(text.strip().replace("\n", " ")), self.newline]


Built = tuple[PrmFormat, Head]
Builder = Callable[[Checkpoint, DecoderConfig, Tokenizer], Built]


def _tag(checkpoint: Checkpoint, config: DecoderConfig, tokenizer: Tokenizer) -> Built:
    tag = _only_id(tokenizer, "ки", "math-shepherd")
    good, bad = (_only_id(tokenizer, word, "math-shepherd") for word in "+-")
    return TagFormat(tokenizer, tag), pair_head(checkpoint, config, good, bad)


def _turns(checkpoint: Checkpoint, config: DecoderConfig, tokenizer: Tokenizer) -> Built:
    good, bad = (tokenizer.encode(word)[-1] for word in "+-")
    first, second, verdict = (_PLACE.format(name) for name in ("one", "two", "verdict"))
    text = render_chat(
        tokenizer,
        [
            {"role": "user", "content": first},
            {"role": "assistant", "content": verdict},
            {"role": "user", "content": second},
        ],
    )
    before, rest = text.split(first)
    to_verdict, rest = rest.split(verdict)
    to_user = rest.split(second)[0]
    encode = tokenizer.encode
    turns = TurnFormat(tokenizer, before, encode(to_verdict, special=True), [good, *encode(to_user, special=True)])
    return turns, pair_head(checkpoint, config, good, bad)


def _marker(checkpoint: Checkpoint, config: DecoderConfig, tokenizer: Tokenizer) -> Built:
    marker = tokenizer.token_id("<extra_0>")
    if marker is None:
        raise TokenizerError(
            f"{checkpoint.source}: this PRM marks steps with '<extra_0>', which its tokenizer lacks; "
            "use the tokenizer files that came with the PRM"
        )
    return MarkerFormat(tokenizer, marker), mlp_head(checkpoint)


def _newline(checkpoint: Checkpoint, config: DecoderConfig, tokenizer: Tokenizer) -> Built:
    return NewlineFormat(tokenizer, tokenizer.encode("\n")[-1]), value_head(checkpoint)


PRM_FORMATS: dict[str, Builder] = {
    "math-shepherd": _tag,
    "rlhflow": _turns,
    "qwen-prm": _marker,
    "skywork": _newline,
}
HEAD_TENSORS = {"qwen-prm": MLP_TENSORS, "skywork": VALUE_TENSORS}


def detect_format(checkpoint: Checkpoint, tokenizer: Tokenizer) -> str:
    """Name of the format that a checkpoint's tensors and tokenizer ask for.

    Head tensors decide first. A plain causal LM with a chat template is judged through "+"/"-" turns (RLHFlow), one
    without through the Math-Shepherd tag. TokenizerError when nothing fits.
    """
    names = checkpoint.names()
    for name, tensors in HEAD_TENSORS.items():
        if names.issuperset(tensors):
            return name
    if tokenizer.chat_template:
        return "rlhflow"
    if _single_id(tokenizer, "ки") is not None:
        return "math-shepherd"
    raise TokenizerError(
        f"{checkpoint.source}: not usable as a PRM: it has no reward head, no chat template for '+'/'-' turns, and its "
        "tokenizer has no single token 'ки' for Math-Shepherd tags; choose a PRM checkpoint"
    )


def make_format(name: str, checkpoint: Checkpoint, config: DecoderConfig, tokenizer: Tokenizer) -> Built:
    """Build format and head by name ("auto": detect). ConfigError for an unknown name."""
    name = detect_format(checkpoint, tokenizer) if name == "auto" else name
    if name not in PRM_FORMATS:
        raise ConfigError(f"prm_format={name!r}: expected auto or one of {', '.join(PRM_FORMATS)}")
    missing = set(HEAD_TENSORS.get(name, ())) - checkpoint.names()
    if missing:
        raise ConfigError(f"prm_format={name!r} needs {', '.join(sorted(missing))}, which {checkpoint.source} lacks")
    return PRM_FORMATS[name](checkpoint, config, tokenizer)


def _single_id(tokenizer: Tokenizer, word: str) -> int | None:
    """The one id that stands for a word, with or without a leading space; `None` when it takes several."""
    for text in (" " + word, word):
        ids = [i for i in tokenizer.encode(text) if tokenizer.token_bytes(i).strip()]
        if len(ids) == 1 and tokenizer.token_bytes(ids[0]).strip() == word.encode():
            return ids[0]
    return None


def _only_id(tokenizer: Tokenizer, word: str, name: str) -> int:
    found = _single_id(tokenizer, word)
    if found is None:
        raise TokenizerError(
            f"PRM format {name!r} needs {word!r} as one token, but this tokenizer splits it into "
            f"{len(tokenizer.encode(word))}; choose the format that this PRM was trained with (--prm-format)"
        )
    return found
