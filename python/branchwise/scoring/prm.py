"""A process reward model: decoder, head and input format, loaded together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from branchwise.backend.base import Backend, PrmHead, WeightCache
from branchwise.models.config import decoder_config
from branchwise.models.decoder import Decoder
from branchwise.models.load import load_decoder
from branchwise.prm_format import Layout, PrmFormat
from branchwise.scoring.formats import format_note, make_format
from branchwise.scoring.inputs import PrmInput
from branchwise.scoring.layouts import written
from branchwise.text.tokenizer import Tokenizer
from branchwise.weights.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Prm:
    """What scoring needs to know about one PRM."""

    model: Decoder
    head: PrmHead | None  # None: its tokens' likelihoods are what counts
    format: PrmInput
    tokenizer: Tokenizer
    source: str
    note: str | None = None  # what a user should know about the choice of the format
    wide: bool = False  # the head gives numbers without bounds, whose sigmoid is the score

    def scores(self, hidden: Tensor) -> list[float]:
        """P(good) of each row. hidden: [rows, hidden]."""
        assert self.head is not None
        values: list[float] = self.head(hidden).tolist()
        return [sigmoid(value) for value in values] if self.wide else values


def load_prm(
    checkpoint: Checkpoint, dtype: torch.dtype, backend: Backend, prm_format: str | PrmFormat = "auto",
    weights: str = "dense", cache: WeightCache | None = None,
) -> Prm:  # fmt: skip
    """Load a PRM. A plain causal LM is one only where the format is chosen by name: then it judges by "+" and "-".

    The trunk is read in `dtype`, its matrices in the form `weights`, heads in fp32; an lm_head that no head needs is
    not kept.
    """
    config = decoder_config(checkpoint.config, checkpoint.source)
    tokenizer = checkpoint.tokenizer()
    tokenizer.check_fits(config.vocab_size, checkpoint.source)
    made = make_format(prm_format, checkpoint, config, tokenizer)
    model = load_decoder(checkpoint, dtype, backend, extra=made.extra, head=False, weights=weights, cache=cache)
    note = format_note(prm_format, checkpoint, tokenizer)
    head = backend.prm_head(made.head.kind, made.head.tensors)
    return Prm(model, head, made.input, tokenizer, checkpoint.source, note, made.head.kind == "logit")


def load_likelihood(
    checkpoint: Checkpoint, dtype: torch.dtype, backend: Backend, layout: Layout, tokenizer: Tokenizer,
    weights: str = "dense", cache: WeightCache | None = None,
) -> Prm:  # fmt: skip
    """Load a causal model with its lm_head, to tell how likely steps are; `tokenizer` writes them."""
    model = load_decoder(checkpoint, dtype, backend, weights=weights, cache=cache)
    tokenizer.check_fits(model.config.vocab_size, checkpoint.source)
    return Prm(model, None, written(layout, tokenizer, "of likelihoods").input, tokenizer, checkpoint.source)


def sigmoid(x: float) -> float:
    """In fp64, in which numbers up to 36 have different ones; NaN for what is none."""
    if not math.isfinite(x):
        return math.nan
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
