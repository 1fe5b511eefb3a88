"""Sampling the slow way: Philox in numpy, filters by sorting, everything in float64."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from branchwise import _C

MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Spec:
    """How one row is drawn."""

    seed: int = 1
    lineage: int = 2
    position: int = 3
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


def uniforms(spec: Spec, vocab_size: int) -> NDArray[np.float64]:
    """Philox4x32-10: the uniform of every word."""
    groups = np.arange((vocab_size + 3) // 4, dtype=np.uint64)
    c = [np.full_like(groups, v) for v in (spec.lineage & MASK, spec.lineage >> 32, spec.position)] + [groups]
    key0, key1 = spec.seed & MASK, spec.seed >> 32
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        high, low = np.uint64(32), np.uint64(MASK)
        c = [
            (p1 >> high) ^ c[1] ^ np.uint64(key0),
            p1 & low,
            (p0 >> high) ^ c[3] ^ np.uint64(key1),
            p0 & low,
        ]
        key0, key1 = (key0 + 0x9E3779B9) & MASK, (key1 + 0xBB67AE85) & MASK
    bits = np.stack(c, axis=1).reshape(-1)[:vocab_size]
    return ((bits >> np.uint64(9)) * 2 + 1).astype(np.float64) * 2.0**-24


def survivors(logits: NDArray[np.float32], spec: Spec) -> NDArray[np.int64]:
    """Words that the filters keep, in order of id."""
    z = logits * (np.float32(1) / np.float32(spec.temperature))
    order = np.argsort(-z, kind="stable")  # ties: the lowest id first
    if spec.top_k > 0:
        order = order[: spec.top_k]
    weights = np.exp(z[order].astype(np.float64) - z.max())
    if spec.top_p < 1:
        reached = np.cumsum(weights) >= np.float32(spec.top_p) * weights.sum() * (1 - 1e-9)
        n = int(np.argmax(reached)) + 1
        order, weights = order[:n], weights[:n]
    if spec.min_p > 0:
        order = order[weights >= np.float32(spec.min_p)]
    return np.sort(order)


def draw_reference(logits: NDArray[np.float32], spec: Spec) -> int:
    """The word that a sampler must draw."""
    if spec.temperature == 0:
        return int(np.argmax(logits))
    words = survivors(logits, spec)
    z = logits[words] * (np.float32(1) / np.float32(spec.temperature))
    gumbel = -np.log(-np.log(uniforms(spec, len(logits))[words]))
    return int(words[np.argmax(z + gumbel)])


@dataclass(frozen=True)
class Penalty:
    """What one row takes from the logits of words it has seen; seen: times written by word, 0: given, -1: banned."""

    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    seen: dict[int, int] = field(default_factory=dict)

    def of(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits [words] that are left, in fp32."""
        left = logits.copy()
        for word, count in self.seen.items():
            if count < 0:
                left[word] = -np.inf
                continue
            value, repetition = left[word], np.float32(self.repetition)
            value = value / repetition if value > 0 else value * repetition
            value -= np.float32(self.frequency) * np.float32(count)
            left[word] = value - np.float32(self.presence) if count else value
        return left


def penalise(sampler: _C.HeadSampler, penalties: list[Penalty]) -> None:
    """Give a sampler the penalties of its rows."""
    words = [sorted(penalty.seen) for penalty in penalties]
    counts = [penalty.seen[word] for penalty, row in zip(penalties, words, strict=True) for word in row]
    columns = [[getattr(each, name) for each in penalties] for name in ("repetition", "presence", "frequency")]
    sampler.penalise(*columns, np.cumsum([0, *map(len, words)]), [word for row in words for word in row], counts)


def draw(
    logits: Tensor, specs: list[Spec], tile_words: int = 0, softcap: float = 0.0,
    penalties: list[Penalty] | None = None,
) -> tuple[list[int], NDArray[np.float32]]:  # fmt: skip
    """Tokens and log-probabilities by the kernel, the vocabulary cut into tiles."""
    rows, vocab_size = logits.shape
    sampler = _C.HeadSampler(rows, vocab_size)
    names = ("seed", "lineage", "position", "temperature", "top_p", "top_k", "min_p")
    types = (np.uint64, np.uint64, np.int32, np.float32, np.float32, np.int32, np.float32)
    columns = [np.array([getattr(spec, name) for spec in specs], kind) for name, kind in zip(names, types, strict=True)]
    sampler.begin(*columns)
    if penalties is not None:
        penalise(sampler, penalties)
    for first in range(0, vocab_size, tile_words or vocab_size):
        sampler.tile(logits[:, first : first + (tile_words or vocab_size)].contiguous(), first, softcap)
    tokens, logprobs = sampler.finish()
    return tokens.tolist(), logprobs


def log_softmax_at(logits: Tensor, tokens: list[int]) -> Tensor:
    """Log-probability of each row's token in float64."""
    return torch.log_softmax(logits.double(), -1)[torch.arange(len(tokens)), tokens]
