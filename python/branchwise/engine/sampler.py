"""Draws the next token of every row with the backend's fused lm_head and sampler."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from branchwise.backend.base import BANNED, DrawArrays, Drawn, Penalties
from branchwise.engine.seen_words import SeenWords
from branchwise.models.decoder import Decoder
from branchwise.types import LEAST_SHARE, Sampling


@dataclass(frozen=True, slots=True)
class Draw:
    """One token to draw: with which random numbers and filters, after which words where that matters, which never.

    top: the k of its confidence; 0: not told
    """

    seed: int
    lineage: int
    position: int
    sampling: Sampling
    seen: SeenWords | None = None
    banned: Collection[int] = ()
    top: int = 0


class DrawnToken(NamedTuple):
    """A token, its log-probability, and where that was asked for its confidence and certainty."""

    id: int
    logprob: float
    sure: tuple[float, float] | None


class Sampler:
    """Sampling for one model. Random numbers depend on (seed, lineage, position, word) alone."""

    def __init__(self, model: Decoder) -> None:
        if model.head is None:
            raise ValueError("this model was loaded without its lm_head")
        config = model.config
        self.fused = model.backend.sampler(model.head, config.vocab_size, config.final_softcap)

    def draw(self, hidden: Tensor, draws: Sequence[Draw]) -> list[DrawnToken]:
        """The token of every draw (see `Drawn`); hidden: [len(draws), hidden]."""
        return token_list(self.fused.draw(hidden, draw_arrays(draws)))

    def logits(self, hidden: Tensor) -> Tensor:
        """The logits that `draw` draws from: [rows, words] fp32, before penalties; hidden: [rows, hidden]."""
        return self.fused.logits(hidden)


def token_list(drawn: Drawn) -> list[DrawnToken]:
    """Row by row; drawn: of one iteration, or of one row over iterations."""
    sure = [None] * len(drawn.ids) if drawn.sure is None else map(tuple, drawn.sure.tolist())
    return list(map(DrawnToken, drawn.ids.tolist(), drawn.logprobs.tolist(), sure))


MOST_WORDS = 2**31 - 1


def draw_arrays(draws: Sequence[Draw]) -> DrawArrays:
    """The draws column by column, in numbers that fp32 and int32 hold."""
    samplings = [draw.sampling for draw in draws]
    return DrawArrays(
        seed=np.array([draw.seed for draw in draws], np.uint64),
        lineage=np.array([draw.lineage for draw in draws], np.uint64),
        position=np.array([draw.position for draw in draws], np.int32),
        temperature=np.array([0.0 if each.is_greedy else each.temperature for each in samplings], np.float32),
        top_p=np.array([max(sampling.top_p, LEAST_SHARE) for sampling in samplings], np.float32),
        top_k=np.array([min(sampling.top_k, MOST_WORDS) for sampling in samplings], np.int32),
        min_p=np.array([sampling.min_p for sampling in samplings], np.float32),
        penalties=_penalties(draws) if any(draw.seen is not None or draw.banned for draw in draws) else None,
        top=np.array([draw.top for draw in draws], np.int32) if any(draw.top for draw in draws) else None,
    )


def _penalties(draws: Sequence[Draw]) -> Penalties:
    samplings = [draw.sampling for draw in draws]
    words, counts = zip(*map(_words, draws), strict=True)
    return Penalties(
        repetition=np.array([sampling.repetition_penalty for sampling in samplings], np.float32),
        presence=np.array([sampling.presence_penalty for sampling in samplings], np.float32),
        frequency=np.array([sampling.frequency_penalty for sampling in samplings], np.float32),
        begins=np.cumsum([0, *map(len, words)]),
        words=np.concatenate(words),
        counts=np.concatenate(counts),
    )


NOTHING = SeenWords()


def _words(draw: Draw) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The words that a row has seen or may not draw, in order, and their counts."""
    seen = NOTHING if draw.seen is None else draw.seen
    if not draw.banned:
        return seen.words, seen.counts
    banned = np.array(sorted(draw.banned), np.int32)
    others = ~np.isin(seen.words, banned)
    words = np.concatenate([seen.words[others], banned])
    counts = np.concatenate([seen.counts[others], np.full(len(banned), BANNED, np.int32)])
    order = words.argsort()
    return words[order], counts[order]
