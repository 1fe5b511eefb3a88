"""PRM heads: from the hidden state at a step's end to P(good). Everything runs in fp32, one row at a time in effect.

| kind       | parameters             | formula (z: logits)                 | rule of `prm_format`               |
|------------|------------------------|-------------------------------------|------------------------------------|
| `pair`     | two rows of lm_head    | softmax([z_good, z_bad])[0]         | `Words`                            |
| `mlp`      | score.0, score.2       | softmax(W2 relu(W0 h + b0) + b2)[1] | `Mlp(2)`                           |
| `value`    | one layer, one row     | sigmoid(w h + b)                    | `Labels`, `MeanLogit`, `Linear`    |
| `logit`    | one or several layers  | z, whose sigmoid is taken in fp64   | `Linear` that is `wide`, `Mlp(1)`  |
| `ensemble` | three layers, E rows   | mean of sigmoid(z_e)                | `Ensemble`                         |

The backend evaluates them; here they are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from branchwise.backend.base import HeadKind
from branchwise.errors import CheckpointError, ConfigError
from branchwise.models.config import DecoderConfig
from branchwise.prm_format import Ensemble, HeadRule, Labels, Linear, MeanLogit, Mlp, Words
from branchwise.scoring.layouts import Written
from branchwise.weights.checkpoint import Checkpoint, some
from branchwise.weights.matrix import head_name

MLP_TENSORS = ("score.0.weight", "score.0.bias", "score.2.weight", "score.2.bias")
ENSEMBLE_TENSORS = tuple(
    f"score.model.{layer}.{kind}" for layer in ("nn1", "nn2", "nn_out") for kind in ("weight", "bias")
)
_LABELS = ("score", "classifier")
_GOOD = ("+", "good", "correct", "positive", "true")  # names that the first label would have if it were the good one
_CHUNK = 4096  # rows of lm_head that are read at once


@dataclass(frozen=True, slots=True)
class Head:
    """Kind and fp32 parameters of a head, in the order that `Backend.prm_head` takes them; where they were read."""

    kind: HeadKind
    tensors: list[Tensor]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """What a head is read from: a checkpoint, and the words of its layout."""

    checkpoint: Checkpoint
    config: DecoderConfig
    written: Written

    def load(self, *names: str) -> list[Tensor]:
        """ConfigError: the checkpoint lacks one."""
        missing = set(names) - self.checkpoint.names()
        if missing:
            raise ConfigError(
                f"PRM format {self.written.name} needs {', '.join(sorted(missing))}, which {self.checkpoint.source} "
                "lacks: choose the format that this PRM was trained with (--prm-format)"
            )
        return [self.checkpoint.load(name, torch.float32) for name in names]


def read_head(rule: HeadRule, source: Source) -> Head:
    """ConfigError: a tensor is missing. CheckpointError: it has another shape."""
    return _READERS[type(rule)](rule, source)


def label_tensors(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Names of the tensors of a classifier: its weight and, where it has one, its bias; or none."""
    names = checkpoint.names()
    layer = next((each for each in _LABELS if f"{each}.weight" in names), None)
    return tuple(name for name in (f"{layer}.weight", f"{layer}.bias") if name in names)


def number_layers(checkpoint: Checkpoint, hidden: int) -> list[str]:
    """Layers that turn a hidden state into one number, without `.weight`."""
    matrices = [name for name in checkpoint.names() if name.endswith(".weight")]
    return sorted(name.removesuffix(".weight") for name in matrices if tuple(checkpoint.shape(name)) == (1, hidden))


def _words(rule: Words, source: Source) -> Head:
    """Rows `good` and `bad` of lm_head (of the embedding where they are tied), the other words left out."""
    ids = source.written.word(rule.good), source.written.word(rule.bad)
    name = head_name(source.checkpoint, source.config.tied)
    rows = [source.checkpoint.load_rows(name, id, id + 1, torch.float32)[0] for id in ids]
    return Head("pair", [torch.stack(rows) / source.config.logit_divisor])


def _mean_logit(rule: MeanLogit, source: Source) -> Head:
    name, words = head_name(source.checkpoint, source.config.tied), source.config.vocab_size
    total = torch.zeros(source.config.hidden_size, dtype=torch.float64)
    for begin in range(0, words, _CHUNK):
        end = min(begin + _CHUNK, words)
        total += source.checkpoint.load_rows(name, begin, end, torch.float32).double().sum(0)
    mean = total / (words * source.config.logit_divisor)
    return Head("value", [mean.float()[None], torch.zeros(1)])


def _linear(rule: Linear, source: Source) -> Head:
    layer = rule.layer or _only_layer(source)
    names = [f"{layer}.weight", *[name for name in (f"{layer}.bias",) if name in source.checkpoint.names()]]
    weight, *bias = source.load(*names)
    _check_rows(source.checkpoint, names[0], 1)
    kind: HeadKind = "logit" if rule.wide else "value"
    return Head(kind, [weight.reshape(1, -1), bias[0].reshape(-1) if bias else torch.zeros(1)], tuple(names))


def _only_layer(source: Source) -> str:
    layers = number_layers(source.checkpoint, source.config.hidden_size)
    if len(layers) != 1:
        given = some(layers) if layers else "none"
        raise ConfigError(
            f"PRM format {source.written.name} needs one layer that gives one number, {source.checkpoint.source} has "
            f"{given}: name it in a PrmFormat, as in Linear('score')"
        )
    return layers[0]


def _labels(rule: Labels, source: Source) -> Head:
    """The softmax over two labels is the sigmoid of their difference."""
    checkpoint, names = source.checkpoint, label_tensors(source.checkpoint)
    if not names or checkpoint.shape(names[0])[0] not in (1, 2):
        given = f"{names[0]} of shape {tuple(checkpoint.shape(names[0]))}" if names else "no score.weight"
        raise CheckpointError(
            f"{checkpoint.source} has {given}: a token classifier of steps has a score.weight of one or two rows"
        )
    weight, *biases = source.load(*names)
    bias = biases[0] if biases else torch.zeros(len(weight))
    if len(weight) == 2:
        labels = checkpoint.config.get("id2label") or {}
        first_is_good = isinstance(labels, dict) and str(labels.get("0", "")).lower() in _GOOD
        good, bad = (0, 1) if first_is_good else (1, 0)
        weight, bias = weight[good] - weight[bad], bias[good] - bias[bad]
    return Head("value", [weight.reshape(1, -1), bias.reshape(-1)], names)


def _mlp(rule: Mlp, source: Source) -> Head:
    tensors = source.load(*MLP_TENSORS)
    _check_rows(source.checkpoint, MLP_TENSORS[2], rule.labels)
    return Head("mlp" if rule.labels == 2 else "logit", tensors, MLP_TENSORS)


def _ensemble(rule: Ensemble, source: Source) -> Head:
    """Networks beside each other: one of three layers, whose matrices are zero between them."""
    tensors = source.load(*ENSEMBLE_TENSORS)
    shapes = [tuple(tensor.shape) for tensor in tensors]
    n, wide = shapes[0][0], shapes[0][-1]
    hidden = source.config.hidden_size
    if shapes != [(n, hidden, wide), (n, wide), (n, wide, wide), (n, wide), (n, wide, 1), (n, 1)]:
        raise CheckpointError(
            f"{source.checkpoint.source}: score.model has shapes {shapes}, expected networks of {hidden} inputs and one"
            " output"
        )
    first, second, last = (tensor.transpose(1, 2) for tensor in tensors[::2])  # [network, out, in]
    beside: Callable[..., Tensor] = torch.block_diag
    weights = [first.reshape(-1, hidden), beside(*second), beside(*last)]
    biases = [tensor.reshape(-1) for tensor in tensors[1::2]]
    return Head("ensemble", [each for pair in zip(weights, biases, strict=True) for each in pair], ENSEMBLE_TENSORS)


def _check_rows(checkpoint: Checkpoint, name: str, rows: int) -> None:
    given = tuple(checkpoint.shape(name))
    if len(given) != 2 or given[0] != rows:
        raise CheckpointError(
            f"{checkpoint.source}: {name} has shape {given}; the head of this format has {rows} row{'s'[: rows - 1]} "
            "there: choose the format that this PRM was trained with (--prm-format)"
        )


_READERS: dict[type[HeadRule], Callable[[Any, Source], Head]] = {
    Words: _words, MeanLogit: _mean_logit, Linear: _linear, Labels: _labels, Mlp: _mlp, Ensemble: _ensemble,
}  # fmt: skip
