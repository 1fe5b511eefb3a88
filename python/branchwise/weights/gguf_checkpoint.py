"""A GGUF file as a checkpoint: Hugging Face names, row order and norm weights, whatever the converter did to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from branchwise.errors import CheckpointError
from branchwise.weights.checkpoint import some, unknown_tensor
from branchwise.weights.dequantise import read_rows, read_tensor
from branchwise.weights.gguf_config import architecture_of, gguf_config
from branchwise.weights.gguf_file import GgufTensor, read_gguf
from branchwise.weights.gguf_names import DERIVED, hf_name

if TYPE_CHECKING:
    from branchwise.text.tokenizer import Tokenizer


class GgufCheckpoint:
    """A model in one GGUF file. See `Checkpoint`."""

    def __init__(self, path: Path) -> None:
        self.source = str(path)
        self._file = read_gguf(path)
        self._architecture = architecture_of(self._file)
        self.config: dict[str, Any] = gguf_config(self._file)
        self._tensors = self._named_tensors()

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor. Raises CheckpointError for an unknown name."""
        return self._tensor(name).shape

    def load(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Read and dequantise one tensor, undoing what the converter did to it. Raises CheckpointError."""
        tensor = self._tensor(name)
        if self._architecture.norm_plus_one and name.endswith("norm.weight"):
            return read_tensor(self._file.path, tensor, torch.float32).sub_(1.0).to(dtype)
        out = read_tensor(self._file.path, tensor, dtype)
        if self._architecture.interleaved_rope and ".self_attn.q_proj." in name:
            return self._half_split(name, out, self.config["num_attention_heads"])
        if self._architecture.interleaved_rope and ".self_attn.k_proj." in name:
            return self._half_split(name, out, self.config["num_key_value_heads"])
        return out

    def load_rows(self, name: str, begin: int, end: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows [begin, end) of the embedding or lm_head, which no converter reorders. Raises CheckpointError."""
        assert name.endswith(("embed_tokens.weight", "lm_head.weight")), name
        return read_rows(self._file.path, self._tensor(name), begin, end, dtype)

    def tokenizer(self) -> Tokenizer:
        """Build the tokenizer from the file's metadata. Raises TokenizerError."""
        from branchwise.text.tokenizer import Tokenizer

        return Tokenizer.from_gguf(self._file.metadata)

    def _named_tensors(self) -> dict[str, GgufTensor]:
        architecture = self._file.metadata["general.architecture"]
        tensors, unknown = {}, []
        for gguf_name, tensor in self._file.tensors.items():
            name = hf_name(gguf_name, architecture)
            if name is not None:
                tensors[name] = tensor
            elif gguf_name not in DERIVED:
                unknown.append(gguf_name)
        if unknown:
            raise CheckpointError(f"{self.source}: {architecture} models have no such tensors: {some(unknown)}.")
        return tensors

    def _tensor(self, name: str) -> GgufTensor:
        if name not in self._tensors:
            raise unknown_tensor(self.source, name, self._tensors)
        return self._tensors[name]

    def _half_split(self, name: str, rows: torch.Tensor, n_heads: int) -> torch.Tensor:
        """Put the rows of each head back: first those that were at even places, then those at odd places."""
        if len(rows) % (2 * n_heads):
            raise CheckpointError(f"{self.source}: {name} has {len(rows)} rows, which {n_heads} heads cannot share.")
        pairs = rows.view(n_heads, len(rows) // n_heads // 2, 2, -1)
        return pairs.transpose(1, 2).reshape(rows.shape)
