"""PRM heads: from the hidden state at a marker to P(good). Everything runs in fp32, one row at a time in effect.

| kind    | parameters                  | formula (z: logits)          | used by                |
|---------|-----------------------------|------------------------------|------------------------|
| `pair`  | two rows of lm_head         | softmax([z_good, z_bad])[0]  | Math-Shepherd, RLHFlow |
| `mlp`   | score.0, score.2            | softmax(W2 relu(W0 h))[1]    | Qwen2.5-Math-PRM       |
| `value` | v_head.summary              | sigmoid(w h + b)             | Skywork                |

The backend evaluates them; here they are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from branchwise.backend.base import HeadKind
from branchwise.models.families import DecoderConfig
from branchwise.weights.checkpoint import Checkpoint
from branchwise.weights.matrix import head_name

MLP_TENSORS = ("score.0.weight", "score.0.bias", "score.2.weight", "score.2.bias")
VALUE_TENSORS = ("v_head.summary.weight", "v_head.summary.bias")


@dataclass(frozen=True, slots=True)
class Head:
    """Kind and fp32 parameters of a head, in the order that `Backend.prm_head` takes them."""

    kind: HeadKind
    tensors: list[Tensor]


def mlp_head(checkpoint: Checkpoint) -> Head:
    """Two-layer classifier with two labels; label 1 is good."""
    return Head("mlp", [checkpoint.load(name, torch.float32) for name in MLP_TENSORS])


def value_head(checkpoint: Checkpoint) -> Head:
    """One number through a sigmoid."""
    weight, bias = (checkpoint.load(name, torch.float32) for name in VALUE_TENSORS)
    return Head("value", [weight.reshape(1, -1), bias.reshape(-1)])


def pair_head(checkpoint: Checkpoint, config: DecoderConfig, good: int, bad: int) -> Head:
    """Rows `good` and `bad` of lm_head (of the embedding where they are tied), the other words left out."""
    name = head_name(checkpoint, config.tied)
    rows = [checkpoint.load_rows(name, word, word + 1, torch.float32)[0] for word in (good, bad)]
    return Head("pair", [torch.stack(rows)])
