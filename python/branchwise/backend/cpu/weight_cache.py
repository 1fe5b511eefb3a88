"""A folder of packed weights: which file is a model's, whether it is of use, and what happens where it is not."""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError

from branchwise import _C, __version__
from branchwise.backend.cpu.linear import reads_twelve_bit
from branchwise.backend.cpu.packed_file import DamagedFile, PackedFile, write_packed
from branchwise.errors import CheckpointError, ConfigError
from branchwise.weights.checkpoint import Checkpoint

Value = TypeVar("Value")


class CachedModel:
    """The file of one model in one form; it may be there or not."""

    def __init__(self, folder: Path, checkpoint: Checkpoint, dtype: torch.dtype, weights: str, head: bool) -> None:
        source = os.path.abspath(checkpoint.source)
        form = _digest(source, str(dtype), weights, head, reads_twelve_bit())
        self._key = f"{form}-{_state(checkpoint)}"
        name = re.sub(r"[^\w.-]+", "-", os.path.basename(source).removesuffix(".gguf"))
        self.path = folder / f"{name}-{self._key}.safetensors"
        self._all_states = f"{name}-{form}-*.safetensors"

    def read(self, build: Callable[[PackedFile], Value]) -> Value | None:
        """What `build` makes of the file; None, with a warning where the file is damaged, when it is of no use.

        ConfigError: there is no file, nor could one be written.
        """
        if not os.path.exists(self.path):
            _check_writable(self.path.parent)
            return None
        try:
            with PackedFile(self.path, self._key) as file:
                return build(file)
        except DamagedFile as error:
            warnings.warn(f"{error}; the weights are packed anew and the file is replaced", RuntimeWarning, 2)
            return None

    def write(self, layers: Mapping[str, Any]) -> None:
        """Keep the layers of a model, by place, instead of what was made of it before; a warning says if that fails."""
        try:
            write_packed(self.path, self._key, layers)
            for path in self.path.parent.glob(self._all_states):
                if path != self.path:
                    path.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            warnings.warn(
                f"{self.path} could not be written: {error}. The model works without; the next start takes as long:"
                " make room, or choose another folder as weight_cache",
                RuntimeWarning, 2,
            )  # fmt: skip


class PackedFolder:
    """A folder with a file for every model and form. ConfigError: there can be no such folder."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder).expanduser()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ConfigError(f"weight_cache={str(folder)!r} is, or lies in, a file: name a folder") from None
        except OSError as error:
            raise _no_folder(self._folder, error) from None

    def model(self, checkpoint: Checkpoint, dtype: torch.dtype, weights: str, head: bool) -> CachedModel:
        """The file of a model; head: whether its lm_head is part of it."""
        return CachedModel(self._folder, checkpoint, dtype, weights, head)


def _state(checkpoint: Checkpoint) -> str:
    """What else than its form the packed weights of a checkpoint depend on."""
    try:
        found = [(path.name, path.stat()) for path in checkpoint.files()]
    except OSError as error:
        raise CheckpointError(f"{checkpoint.source} is no longer there: {error}") from error
    return _digest(__version__, _C.PANEL_FORMAT, [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found])


def _digest(*about: Any) -> str:
    """12 hex digits."""
    return blake2b(json.dumps(about).encode(), digest_size=6).hexdigest()


def _check_writable(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _no_folder(folder, error) from None


def _no_folder(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"weight_cache={str(folder)!r} cannot be written: {error.strerror}. Name a folder that can, or leave it out"
    )
