"""The embedding table: rows are read from the checkpoint when a token is first seen, and kept."""

from __future__ import annotations

import torch
from torch import Tensor

from branchwise.weights.checkpoint import Checkpoint

_NAME = "model.embed_tokens.weight"


class Embedding:
    """Embeddings of the tokens that were ever used.

    Large vocabularies are mostly never seen, and a tied lm_head holds a packed copy of all rows already: memory that is
    never written is never taken from the system. The checkpoint must stay in place while the model is used.
    """

    def __init__(self, checkpoint: Checkpoint, vocab_size: int, hidden_size: int, dtype: torch.dtype) -> None:
        self._checkpoint = checkpoint
        self._rows = torch.empty(vocab_size, hidden_size, dtype=dtype)
        self._known = torch.zeros(vocab_size, dtype=torch.bool)

    def __call__(self, tokens: Tensor) -> Tensor:
        """tokens: [rows] int64 -> [rows, hidden]. CheckpointError when the checkpoint can no longer be read."""
        if not self._known[tokens].all():
            self._read(sorted(set(tokens[~self._known[tokens]].tolist())))
        return self._rows[tokens]

    def _read(self, tokens: list[int]) -> None:
        for token in tokens:
            self._rows[token] = self._checkpoint.load_rows(_NAME, token, token + 1, self._rows.dtype)[0]
        self._known[torch.tensor(tokens)] = True
