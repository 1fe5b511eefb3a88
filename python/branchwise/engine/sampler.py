"""Draws the next token of every row: lm_head tile by tile, each tile sampled while it is in cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from branchwise._C import HeadSampler
from branchwise.models.decoder import Decoder
from branchwise.models.load import HEAD_TILE_WORDS
from branchwise.types import Sampling

GROUP_ROWS = 64  # rows sampled at once: bounds the logits that top-k and top-p keep


@dataclass(frozen=True, slots=True)
class Draw:
    """One token to draw: with which random numbers and filters."""

    seed: int
    lineage: int
    position: int
    sampling: Sampling


class Sampler:
    """Sampling for one model. Random numbers depend on (seed, lineage, position, word) alone."""

    def __init__(self, model: Decoder) -> None:
        if model.head is None:
            raise ValueError("this model was loaded without its lm_head")
        self.head = model.head
        self.softcap = model.config.final_softcap
        self.fused = HeadSampler(GROUP_ROWS, model.config.vocab_size)

    def draw(self, hidden: Tensor, draws: Sequence[Draw]) -> tuple[list[int], list[float]]:
        """Token id and log-probability (temperature 1, no filters) of every draw.

        hidden: [len(draws), hidden]
        """
        tokens: list[int] = []
        logprobs: list[float] = []
        for begin in range(0, len(draws), GROUP_ROWS):
            end = begin + GROUP_ROWS
            ids, values = self._draw_group(hidden[begin:end], draws[begin:end])
            tokens += ids
            logprobs += values
        return tokens, logprobs

    def _draw_group(self, rows: Tensor, draws: Sequence[Draw]) -> tuple[list[int], list[float]]:
        self.fused.begin(
            np.array([draw.seed for draw in draws], np.uint64),
            np.array([draw.lineage for draw in draws], np.uint64),
            np.array([draw.position for draw in draws], np.int32),
            np.array([draw.sampling.temperature for draw in draws], np.float32),
            np.array([draw.sampling.top_p for draw in draws], np.float32),
            np.array([draw.sampling.top_k for draw in draws], np.int32),
            np.array([draw.sampling.min_p for draw in draws], np.float32),
        )
        for index, tile in enumerate(self.head):
            self.fused.tile(tile(rows), index * HEAD_TILE_WORDS, self.softcap)
        ids, values = self.fused.finish()
        return np.asarray(ids).tolist(), np.asarray(values).tolist()
