"""Typed look-ups in GGUF metadata; a missing or wrong value is an error that names the key."""

from __future__ import annotations

import numpy as np

from branchwise.errors import CheckpointError
from branchwise.weights.gguf_file import GgufFile


class Metadata:
    """The metadata of a file, under the prefix of its architecture. Every method raises CheckpointError."""

    def __init__(self, file: GgufFile) -> None:
        self.file, self.prefix = file, file.metadata["general.architecture"]

    def key(self, name: str) -> str:
        """The whole key."""
        return name if name.startswith("tokenizer.") else f"{self.prefix}.{name}"

    def error(self, name: str, problem: str) -> CheckpointError:
        """The error for a value that cannot be."""
        key = self.key(name)
        return CheckpointError(
            f"{self.file.path}: metadata {key} = {repr(self.file.metadata.get(key))[:80]} {problem}."
        )

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive integer, or 0 where the default allows for none."""
        value = self.file.metadata.get(self.key(name), default)
        if isinstance(value, list) and len(set(value)) == 1:  # some converters write one value per layer
            value = value[0]
        if type(value) is not int or value < 0 or (value == 0 and default is None):
            raise self.error(name, "must be a positive integer, the same for every layer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number."""
        value = self.file.metadata.get(self.key(name), default)
        if not isinstance(value, float | int) or type(value) is bool or not 0 < value < 1e30:  # nor is NaN
            raise self.error(name, "must be a positive number")
        # The file holds fp32: give back the shortest decimal of it, 1e-06 rather than 9.999999974752427e-07.
        return float(str(np.float32(value)))

    def token(self, name: str) -> int | None:
        """The id of a special token."""
        value = self.file.metadata.get(self.key(f"tokenizer.ggml.{name}_token_id"))
        return value if type(value) is int else None
