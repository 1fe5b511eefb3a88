"""PRM heads: from the hidden state at a marker to P(good). Everything runs in fp32, one row at a time in effect.

| kind          | parameters                  | formula (z: logits)          | used by                |
|---------------|-----------------------------|------------------------------|------------------------|
| `PairHead`    | two rows of lm_head         | softmax([z_good, z_bad])[0]  | Math-Shepherd, RLHFlow |
| `MlpHead`     | score.0, score.2            | softmax(W2 relu(W0 h))[1]    | Qwen2.5-Math-PRM       |
| `ValueHead`   | v_head.summary              | sigmoid(w h + b)             | Skywork                |
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from branchwise import ops
from branchwise._C import PackedWeight, gemm
from branchwise.models.families import DecoderConfig
from branchwise.weights.checkpoint import Checkpoint

Scores = NDArray[np.float32]


class Head(Protocol):
    """Turns hidden states into probabilities, every row by itself."""

    def __call__(self, hidden: Tensor) -> Scores:
        """hidden: [rows, hidden], any float dtype -> [rows] fp32."""
        ...


class _Linear:
    """An fp32 linear layer whose rows never depend on each other: our own GEMM, whatever the machine."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.packed = PackedWeight(weight)
        self.bias = bias
        self.out_features = len(weight)

    def __call__(self, x: Tensor) -> Tensor:
        out = torch.empty(len(x), self.out_features)
        gemm(x, self.packed, out, self.bias)
        return out


class PairHead:
    """P(good) from the logits of two words, the rest of the vocabulary left out."""

    def __init__(self, good: Tensor, bad: Tensor) -> None:
        self.pair = _Linear(torch.stack([good, bad]).float(), None)

    def __call__(self, hidden: Tensor) -> Scores:
        return ops.prm_probability(self.pair(hidden.float()), "softmax0")


class MlpHead:
    """Two-layer classifier with two labels; label 1 is good."""

    tensors = ("score.0.weight", "score.0.bias", "score.2.weight", "score.2.bias")

    def __init__(self, checkpoint: Checkpoint) -> None:
        first, first_bias, second, second_bias = (checkpoint.load(name, torch.float32) for name in self.tensors)
        self.first = _Linear(first, first_bias)
        self.second = _Linear(second, second_bias)

    def __call__(self, hidden: Tensor) -> Scores:
        return ops.prm_probability(self.second(self.first(hidden.float()).relu_()), "softmax1")


class ValueHead:
    """One number through a sigmoid."""

    tensors = ("v_head.summary.weight", "v_head.summary.bias")

    def __init__(self, checkpoint: Checkpoint) -> None:
        weight, bias = (checkpoint.load(name, torch.float32) for name in self.tensors)
        self.value = _Linear(weight.reshape(1, -1), bias.reshape(-1))

    def __call__(self, hidden: Tensor) -> Scores:
        return ops.prm_probability(self.value(hidden.float()), "sigmoid")


def pair_head(checkpoint: Checkpoint, config: DecoderConfig, good: int, bad: int) -> PairHead:
    """Rows `good` and `bad` of lm_head (of the embedding where the two are tied)."""
    tied = config.tied and "lm_head.weight" not in checkpoint.names()
    name = "model.embed_tokens.weight" if tied else "lm_head.weight"
    rows = [checkpoint.load_rows(name, word, word + 1, torch.float32)[0] for word in (good, bad)]
    return PairHead(*rows)
