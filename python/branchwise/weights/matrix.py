"""A weight matrix in the form that `EngineConfig.weights` names, and how much memory that takes."""

from __future__ import annotations

from math import prod

import torch

from branchwise.errors import CheckpointError
from branchwise.weights.blocks import QUANTISED, BlockFormat, Matrix, quantise
from branchwise.weights.checkpoint import Checkpoint

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def head_name(checkpoint: Checkpoint, tied: bool = True) -> str:
    """The matrix that gives the logits, for whoever reads it: an lm_head that is stored, else the embedding.

    tied: what the config says. It only matters where no lm_head is stored: one that is stored may have been trained on.
    CheckpointError: there is none, and the embedding must not serve as one.
    """
    if HEAD in checkpoint.names():
        return HEAD
    if tied:
        return EMBEDDING
    raise CheckpointError(
        f"{checkpoint.source}: {HEAD} is missing, and the config does not say tie_word_embeddings: true, by which the "
        "embedding would serve as one. Is a file of weights missing?"
    )


def is_matrix(name: str) -> bool:
    """Whether a tensor is a matrix of a layer."""
    return name.endswith("_proj.weight")


def read_matrix(
    checkpoint: Checkpoint, name: str, weights: str, dtype: torch.dtype, rows: tuple[int, int] | None = None
) -> Matrix:
    """A matrix of a layer, or rows [begin, end) of the lm_head.

    weights: "dense": in `dtype`; "stored": the file's blocks where it has them; else quantised to that format.
    CheckpointError: it cannot be read. ConfigError: it does not divide into groups.
    """

    def dense(of: torch.dtype) -> torch.Tensor:
        return checkpoint.load(name, of) if rows is None else checkpoint.load_rows(name, *rows, of)

    if weights in QUANTISED:
        return quantise(dense(torch.float32), QUANTISED[weights], f"{checkpoint.source}: {name}")
    if weights == "stored" and checkpoint.block_format(name) is not None:
        return checkpoint.load_blocks(name, *(rows or (0, checkpoint.shape(name)[0])))
    return dense(dtype)


def weight_bytes(checkpoint: Checkpoint, weights: str, dtype: torch.dtype) -> int:
    """Bytes that all tensors take in this form. A tied embedding counts as the lm_head that it is."""
    matrices = head_name(checkpoint)
    total = 0.0
    for name in checkpoint.names():
        form: BlockFormat | None = None
        if name == matrices or is_matrix(name):
            form = checkpoint.block_format(name) if weights == "stored" else QUANTISED.get(weights)
        bits = form.bits_per_weight if form is not None else 8 * dtype.itemsize
        total += prod(checkpoint.shape(name)) * bits / 8
    return int(total)
