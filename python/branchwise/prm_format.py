"""The format of a PRM as a record: how problem and steps are written for it, and which head says what a step is worth.

    PrmFormat(Text("{problem}\n", "{step} <judge>", marker="<judge>"), Words(" good", " bad"))

`PRM_FORMATS` in `scoring/formats.py` are such records; one of your own goes to the engine as `prm_format=`. A score is
in [0, 1]. Where it is the sigmoid of a number without bounds, as outcome models give, `raw_reward` has the number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from branchwise.errors import ConfigError

PROBLEM, STEP, STEPS, NUMBER = "{problem}", "{step}", "{steps}", "{number}"
TURN_END, EOS, WORD = "{end}", "{eos}", "{word}"


def raw_reward(score: float) -> float:
    """The number that a score is the sigmoid of; exact enough up to 30 on both sides of 0."""
    return math.inf if score >= 1 else -math.inf if score <= 0 else math.log(score) - math.log1p(-score)


# --- layouts: what is written -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Text:
    """One running text: `problem`, then `step` for every step, `between` where one follows another.

    problem   holds {problem}
    step      holds {step}, and {number} before it where steps are counted, from 1: then a "Step 3:" of their own is
              left out. It is scored at its last token
    last      how a step is written where it is scored, if otherwise: from where it differs from `step`, it is fed for
              its score alone, and is no part of what later steps see. {eos}: the end-of-sequence token
    checks    the same for what it has to pass before, one after another, each read at its last token: a step that is
              found bad there, below 1/2, has the score 0, and nothing more of it is fed
    marker    the word that ends `step`, when it must be one token; where problem or steps spell it, it is cut apart
    pieces    problem, steps and what ends them are cut into tokens by themselves, not as one text
    one_line  newlines in a step become spaces
    """

    problem: str
    step: str
    between: str = ""
    last: str | None = None
    marker: str = ""
    pieces: bool = False
    one_line: bool = False
    checks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _holds("problem", self.problem, PROBLEM)
        _check_steps(self)


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation in the PRM's own chat template.

    step, between, last, checks, marker   as in `Text`; {end} in `last`: what the template writes behind the steps
    messages                              (role, content); {problem} and then {steps} stand once each, in one message or
                                          two. {word} behind them: where a word that judges would stand, and {end} ends
    """

    step: str
    between: str = ""
    last: str | None = None
    marker: str = ""
    messages: tuple[tuple[str, str], ...] = (("user", PROBLEM), ("assistant", STEPS))
    checks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_steps(self)
        written = "".join(content for _, content in self.messages)
        _holds("messages", written, PROBLEM)
        _holds("messages", written, STEPS)
        if written.index(STEPS) < written.index(PROBLEM):
            raise ConfigError(f"messages={self.messages!r}: expected {PROBLEM} before {STEPS}")


@dataclass(frozen=True, slots=True)
class Turns:
    """A user's turn for every step, each answered by the assistant with `verdict`, whatever the scores are.

    first     what the first turn says, {problem} and then {step}, which ends it; later ones are the step alone
    verdict   one token; a step is scored at the token before it
    """

    first: str = f"{PROBLEM} {STEP}"
    verdict: str = "+"

    def __post_init__(self) -> None:
        _holds("first", self.first, PROBLEM)
        _holds("first", self.first, STEP)
        if not self.first.endswith(STEP):
            raise ConfigError(f"first={self.first!r}: expected {STEP} at its end")
        if not self.verdict:
            raise ConfigError("verdict='': expected a word of one token, as in '+'")


# --- heads: what is read ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Words:
    """The probability of the word `good` among `good` and `bad`: the tokens that they end in."""

    good: str
    bad: str


@dataclass(frozen=True, slots=True)
class MeanLogit:
    """The mean of the logits of all words."""


@dataclass(frozen=True, slots=True)
class Linear:
    """One number of a linear layer.

    layer   its name without `.weight`; "": the only layer of one number that the checkpoint has beside its decoder
    wide    its numbers may be far from 0: the sigmoid is taken so that they stay apart
    """

    layer: str = ""
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Labels:
    """A token classifier, `score` or `classifier`, with two labels, of which the second is good, or with one."""


@dataclass(frozen=True, slots=True)
class Mlp:
    """`score.0`, ReLU, `score.2`, with two labels, of which the second is good, or with one number without bounds."""

    labels: int = 2


@dataclass(frozen=True, slots=True)
class Ensemble:
    """The mean probability of several networks of three layers each, `score.model.nn1`, `nn2` and `nn_out`."""


Layout = Text | Chat | Turns
HeadRule = Words | MeanLogit | Linear | Labels | Mlp | Ensemble


@dataclass(frozen=True, slots=True)
class PrmFormat:
    """How a PRM is fed and what its scores are."""

    layout: Layout
    head: HeadRule

    def __post_init__(self) -> None:
        if not isinstance(self.layout, Layout) or not isinstance(self.head, HeadRule):
            raise ConfigError(
                f"PrmFormat({self.layout!r}, {self.head!r}): expected a layout (Text, Chat, Turns) and a head (Words, "
                "MeanLogit, Linear, Labels, Mlp, Ensemble) of branchwise.prm_format"
            )


def _holds(name: str, text: str, place: str) -> None:
    if text.count(place) != 1:
        raise ConfigError(f"{name}={text!r}: expected {place} in it, once")


def _check_steps(layout: Text | Chat) -> None:
    _holds("step", layout.step, STEP)
    if layout.marker and not layout.step.endswith(layout.marker):
        raise ConfigError(f"step={layout.step!r}: expected it to end in marker={layout.marker!r}")
    if layout.last is not None:
        _holds("last", layout.last, STEP)
    given: object = layout.checks
    if not isinstance(given, tuple):
        raise ConfigError(f"checks={given!r}: expected a tuple of texts, as in ('{STEP} Right?',)")
    for each in layout.checks:
        _holds("checks", each, STEP)
