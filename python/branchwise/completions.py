"""What a completion is: the samples of one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from branchwise.confidence import TraceConfidence
from branchwise.types import Cost, Cut, FinishReason, Message, TokenLogprob

Prompt: TypeAlias = str | Sequence[Message] | Sequence[int]
"""Text, chat messages or token ids."""


@dataclass(slots=True)
class Sample:
    """One continuation of a prompt.

    text     without what stopped it, unless `include_stop`; U+FFFD where a cap has cut a character
    tokens   as they were drawn, to the last one: what stopped it is among them
    logprob  sum over the tokens, model distribution at temperature 1
    logprobs of each token, where that was asked for    confidence: how sure the policy was of all of it, likewise
    finish   "stop": a stop, which `stop_reason` names; "eos": the model ended it; "length": a cap, which `cut` names
    repeat   certain to equal an earlier sample, so that it cost nothing: at temperature 0, or where a prompt is given
             twice with one seed
    """

    text: str
    tokens: list[int]
    logprob: float
    finish: FinishReason
    stop_reason: str | int | None = None  # the text, or the token id
    cut: Cut | None = None  # "tokens" or "context"
    logprobs: list[TokenLogprob] | None = None
    cost: Cost = field(default_factory=Cost)
    repeat: bool = False
    confidence: TraceConfidence | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """More text of a sample, which will not change; all pieces of a sample joined are its text.

    index: of the sample    sample: all of it, with its last piece
    """

    index: int
    text: str
    sample: Sample | None = None


@dataclass(slots=True)
class Completion:
    """The samples of one prompt.

    prompt  token ids    cost: of all samples, and of the prompt where this is the first of its call that has it
    prompt_logprobs  of each token of the prompt, where that was asked for; None for the first, before which is nothing
    seed    of sample 0; sample i is drawn with seed + i. Given again with the prompt, it gives these samples again
    """

    prompt: list[int]
    samples: list[Sample]
    seed: int
    prompt_logprobs: list[TokenLogprob | None] | None = None
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What the policy thinks of a given continuation.

    logprob: sum over its tokens    is_greedy: whether greedy decoding would write it    tokens: one by one
    """

    logprob: float
    is_greedy: bool
    tokens: list[TokenLogprob]
