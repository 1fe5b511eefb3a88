"""A process reward model: decoder, head and input format, loaded together."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from branchwise.backend.base import Backend, PrmHead, WeightCache
from branchwise.models.config import decoder_config
from branchwise.models.decoder import Decoder
from branchwise.models.load import load_decoder
from branchwise.scoring.formats import format_note, head_tensors, make_format
from branchwise.scoring.inputs import PrmFormat
from branchwise.text.tokenizer import Tokenizer
from branchwise.weights.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Prm:
    """What scoring needs to know about one PRM."""

    model: Decoder
    head: PrmHead
    format: PrmFormat
    tokenizer: Tokenizer
    source: str
    note: str | None = None  # what a user should know about the choice of the format


def load_prm(
    checkpoint: Checkpoint, dtype: torch.dtype, backend: Backend, format_name: str = "auto", weights: str = "dense",
    cache: WeightCache | None = None,
) -> Prm:  # fmt: skip
    """Load a PRM. A plain causal LM is one only where the format is chosen by name: then it judges by "+" and "-".

    The trunk is read in `dtype`, its matrices in the form `weights`, heads in fp32; an lm_head that no head needs is
    not kept.
    """
    config = decoder_config(checkpoint.config, checkpoint.source)
    tokenizer = checkpoint.tokenizer()
    tokenizer.check_fits(config.vocab_size, checkpoint.source)
    step_format, head = make_format(format_name, checkpoint, config, tokenizer)
    extra = head_tensors(checkpoint)
    model = load_decoder(checkpoint, dtype, backend, extra=extra, head=False, weights=weights, cache=cache)
    note = format_note(format_name, checkpoint)
    return Prm(model, backend.prm_head(head.kind, head.tensors), step_format, tokenizer, checkpoint.source, note)
