"""PRM heads: from the hidden state at a marker to P(good). Everything runs in fp32, one row at a time in effect.

| kind    | parameters                  | formula (z: logits)          | used by                |
|---------|-----------------------------|------------------------------|------------------------|
| `pair`  | two rows of lm_head         | softmax([z_good, z_bad])[0]  | Math-Shepherd, RLHFlow |
| `mlp`   | score.0, score.2            | softmax(W2 relu(W0 h))[1]    | Qwen2.5-Math-PRM       |
| `value` | v_head.summary              | sigmoid(w h + b)             | Skywork                |
| `value` | score or classifier         | softmax(W h + b)[1]          | TRL's PRMTrainer       |

The backend evaluates them; here they are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from branchwise.backend.base import HeadKind
from branchwise.errors import CheckpointError
from branchwise.models.config import DecoderConfig
from branchwise.weights.checkpoint import Checkpoint
from branchwise.weights.matrix import head_name

MLP_TENSORS = ("score.0.weight", "score.0.bias", "score.2.weight", "score.2.bias")
VALUE_TENSORS = ("v_head.summary.weight", "v_head.summary.bias")
_LABELS = ("score", "classifier")
_GOOD = ("+", "good", "correct", "positive", "true")  # names that the first label would have if it were the good one


@dataclass(frozen=True, slots=True)
class Head:
    """Kind and fp32 parameters of a head, in the order that `Backend.prm_head` takes them."""

    kind: HeadKind
    tensors: list[Tensor]


def mlp_head(checkpoint: Checkpoint) -> Head:
    """Two-layer classifier with two labels; label 1 is good. CheckpointError for another number of labels."""
    _check_rows(checkpoint, "score.2.weight", 2)
    return Head("mlp", [checkpoint.load(name, torch.float32) for name in MLP_TENSORS])


def value_head(checkpoint: Checkpoint) -> Head:
    """One number through a sigmoid. CheckpointError for more."""
    _check_rows(checkpoint, VALUE_TENSORS[0], 1)
    weight, bias = (checkpoint.load(name, torch.float32) for name in VALUE_TENSORS)
    return Head("value", [weight.reshape(1, -1), bias.reshape(-1)])


def _check_rows(checkpoint: Checkpoint, name: str, rows: int) -> None:
    given = tuple(checkpoint.shape(name))
    if len(given) != 2 or given[0] != rows:
        raise CheckpointError(
            f"{checkpoint.source}: {name} has shape {given}; a head that judges steps has {rows} row{'s'[: rows - 1]}"
            " there. Models that judge whole answers are not supported"
        )


def label_tensors(checkpoint: Checkpoint) -> list[str]:
    """Names of the tensors of a token-classification head: its weight and, where it has one, its bias; or none."""
    names = checkpoint.names()
    layer = next((each for each in _LABELS if f"{each}.weight" in names), None)
    return [name for name in (f"{layer}.weight", f"{layer}.bias") if name in names]


def label_head(checkpoint: Checkpoint) -> Head:
    """Token classification with two labels, the second of which is good, or with one.

    The softmax over two labels is the sigmoid of their difference. CheckpointError for want of it, or more labels.
    """
    names = label_tensors(checkpoint)
    if not names or checkpoint.shape(names[0])[0] not in (1, 2):
        given = f"{names[0]} of shape {tuple(checkpoint.shape(names[0]))}" if names else "no score.weight"
        raise CheckpointError(
            f"{checkpoint.source} has {given}: a token classifier of steps has a score.weight of one or two rows"
        )
    weight = checkpoint.load(names[0], torch.float32)
    bias = checkpoint.load(names[1], torch.float32) if len(names) > 1 else torch.zeros(len(weight))
    if len(weight) == 2:
        labels = checkpoint.config.get("id2label") or {}
        first_is_good = isinstance(labels, dict) and str(labels.get("0", "")).lower() in _GOOD
        good, bad = (0, 1) if first_is_good else (1, 0)
        weight, bias = weight[good] - weight[bad], bias[good] - bias[bad]
    return Head("value", [weight.reshape(1, -1), bias.reshape(-1)])


def pair_head(checkpoint: Checkpoint, config: DecoderConfig, good: int, bad: int) -> Head:
    """Rows `good` and `bad` of lm_head (of the embedding where they are tied), the other words left out."""
    name = head_name(checkpoint, config.tied)
    rows = [checkpoint.load_rows(name, word, word + 1, torch.float32)[0] for word in (good, bad)]
    return Head("pair", [torch.stack(rows) / config.logit_divisor])
