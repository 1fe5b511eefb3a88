"""A GGUF file as a checkpoint: Hugging Face names, row order and norm weights, whatever the converter did to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from branchwise.errors import CheckpointError
from branchwise.weights.blocks import BlockFormat, Blocks
from branchwise.weights.checkpoint import some, unknown_tensor
from branchwise.weights.dequantise import read_rows, read_tensor
from branchwise.weights.gguf_blocks import block_format, read_blocks
from branchwise.weights.gguf_config import architecture_of, gguf_config
from branchwise.weights.gguf_file import GgufTensor
from branchwise.weights.gguf_names import hf_name
from branchwise.weights.gguf_rope import DERIVED
from branchwise.weights.gguf_split import read_model
from branchwise.weights.recommended import Recommended, of_metadata

if TYPE_CHECKING:
    from branchwise.text.tokenizer import Tokenizer


class GgufCheckpoint:
    """A model in one GGUF file, or in the parts of one. See `Checkpoint`."""

    def __init__(self, path: Path) -> None:
        self.source = str(path)
        self._file = read_model(path)
        self._architecture = architecture_of(self._file)
        self.config: dict[str, Any] = gguf_config(self._file)
        self._tensors = self._named_tensors()

    def files(self) -> list[Path]:
        """The one file, or all of its parts."""
        return list(self._file.parts)

    def recommended(self) -> Recommended:
        """What the metadata say."""
        return of_metadata(self._file.metadata)

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
            return read_tensor(tensor, torch.float32).sub_(1.0).to(dtype)
        out = read_tensor(tensor, dtype)
        order = self._row_order(name, len(out))
        return out if order is None else out[torch.from_numpy(order)]

    def load_rows(self, name: str, begin: int, end: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows [begin, end) of a matrix that no converter reorders. Raises CheckpointError."""
        assert self._row_order(name, 0) is None, name
        return read_rows(self._tensor(name), begin, end, dtype)

    def block_format(self, name: str) -> BlockFormat | None:
        """How a matrix is quantised in the file; None where it is not. Raises CheckpointError for an unknown name."""
        return block_format(self._tensor(name).type)

    def load_blocks(self, name: str, begin: int, end: int) -> Blocks:
        """Rows [begin, end) of a matrix that is quantised, as it is stored. Raises CheckpointError."""
        tensor = self._tensor(name)
        order = self._row_order(name, tensor.shape[0])
        if order is None:
            return read_blocks(tensor, begin, end)
        return read_blocks(tensor, 0, tensor.shape[0]).rows(order[begin:end])

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

    def _row_order(self, name: str, n_rows: int) -> NDArray[np.int64] | None:
        """Where each row lies in the file, if the converter moved them.

        For interleaved RoPE it shuffled the rows of a head: those of the first half went to even places.
        """
        kinds = {".self_attn.q_proj.": "num_attention_heads", ".self_attn.k_proj.": "num_key_value_heads"}
        heads = [self.config[count] for part, count in kinds.items() if part in name]
        if not heads or not self._architecture.interleaved_rope:
            return None
        if n_rows % (2 * heads[0]):
            raise CheckpointError(f"{self.source}: {name} has {n_rows} rows, which {heads[0]} heads cannot share.")
        order: NDArray[np.int64] = np.arange(n_rows).reshape(heads[0], -1, 2).swapaxes(1, 2)
        return order.reshape(n_rows)
