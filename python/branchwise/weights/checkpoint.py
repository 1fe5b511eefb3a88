"""What every checkpoint can do, whatever file it is: name its tensors, load one, build its tokenizer."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Protocol

from branchwise.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from branchwise.text.tokenizer import Tokenizer
    from branchwise.weights.blocks import BlockFormat, Blocks
    from branchwise.weights.recommended import Recommended


class Checkpoint(Protocol):
    """Configuration, tensors and tokenizer of one model, under the names that Hugging Face models use.

    GGUF tensors come out with Hugging Face semantics too: query and key rows in half-split RoPE order, and Gemma's
    norm weights as stored there (the model adds one). Tensors may be loaded from several threads at once.
    """

    source: str
    config: dict[str, Any]  # as in config.json

    def files(self) -> list[Path]:
        """The files that configuration and tensors are read from."""
        ...

    def recommended(self) -> Recommended:
        """How its makers would sample. Raises CheckpointError for a damaged file."""
        ...

    def names(self) -> set[str]:
        """Names of all tensors, e.g. `model.layers.0.self_attn.q_proj.weight`."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header alone. Raises CheckpointError for a name that is not in `names()`."""
        ...

    def load(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Read one tensor as a floating-point `dtype`: contiguous, in memory of its own.

        Peak memory is the result plus at most one copy of this tensor. Raises CheckpointError.
        """
        ...

    def load_rows(self, name: str, begin: int, end: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows [begin, end) of a matrix other than q_proj or k_proj, and no more of it. Raises CheckpointError."""
        ...

    def block_format(self, name: str) -> BlockFormat | None:
        """How a matrix is quantised in the file; None where it is not. Raises CheckpointError for an unknown name."""
        ...

    def load_blocks(self, name: str, begin: int, end: int) -> Blocks:
        """Rows [begin, end) of a matrix that is quantised, as it is stored. Raises CheckpointError."""
        ...

    def tokenizer(self) -> Tokenizer:
        """Build the tokenizer stored beside the weights. Raises TokenizerError."""
        ...


def unknown_tensor(source: str, name: str, names: Collection[str]) -> CheckpointError:
    """The error for a tensor that a checkpoint does not have, with the closest names that it does have."""
    close = difflib.get_close_matches(name, names, n=3)
    hint = f" Closest: {', '.join(close)}." if close else ""
    return CheckpointError(f"{source} has no tensor {name!r} among its {len(names)}.{hint}")


def some(names: Collection[str], limit: int = 8) -> str:
    """A few sorted names for an error message, and how many more there are."""
    shown = sorted(names)[:limit]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
