"""The GPU's kernels on the CPU, in Triton's interpreter: thousands of times slower, and the same results.

For tests and for looking into a kernel with a debugger. The variable must be set before Python starts.
"""

from __future__ import annotations

import os

import torch

from branchwise.backend.gpu.backend import TritonBackend
from branchwise.errors import ConfigError


class InterpBackend(TritonBackend):
    """Triton's interpreter. ConfigError unless TRITON_INTERPRET=1."""

    name = "interpreter"
    dtypes: tuple[torch.dtype, ...] = (
        torch.float32,
        torch.float16,
    )  # the interpreter computes bf16 as integers, without a word

    def __init__(self, option: str = "device") -> None:
        if os.environ.get("TRITON_INTERPRET") != "1":
            raise ConfigError(
                f"{option}='interpreter' needs TRITON_INTERPRET=1 in the environment before Python starts"
            )
        super().__init__(torch.device("cpu"))
