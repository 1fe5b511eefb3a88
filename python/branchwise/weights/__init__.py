"""Where the weights of a model come from: a Hugging Face folder, a GGUF file or a hub id, behind one interface."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from branchwise.errors import CheckpointError

if TYPE_CHECKING:
    from branchwise.weights.checkpoint import Checkpoint

__all__ = ["open_checkpoint"]

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Open a model by folder, `.gguf` file or hub id ("org/name"); what exists on disk wins over the hub.

    Headers are read and checked here; tensors are read one at a time, when asked for.
    Raises CheckpointError when `source` is none of the three, or damaged, incomplete or of an unknown kind.
    """
    path = Path(os.path.expanduser(source))
    try:
        # Unlike the methods of Path, this never raises.
        return _open_path(path) if os.path.exists(path) else _open_hub_id(str(source))
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or path} cannot be read: {error.strerror}. Check its permissions."
        ) from error


def _open_hub_id(source: str) -> Checkpoint:
    from branchwise.weights.hub import fetch_snapshot, is_hub_id

    if not is_hub_id(source):
        raise CheckpointError(
            f"no model at {source!r}: expected a folder with config.json and model.safetensors, a .gguf file, "
            "or a hub id such as 'Qwen/Qwen2.5-0.5B-Instruct'. Check the path."
        )
    from branchwise.weights.safetensors_folder import SafetensorsCheckpoint

    return SafetensorsCheckpoint(fetch_snapshot(source), source=source)


def _open_path(path: Path) -> Checkpoint:
    if path.is_dir():
        from branchwise.weights.safetensors_folder import SafetensorsCheckpoint

        return SafetensorsCheckpoint(path)
    if path.suffix in _PICKLES:
        raise CheckpointError(
            f"{path} is a pickle, which can run code when loaded and is never read. "
            "Convert the model to safetensors (model.save_pretrained(folder)) or to GGUF."
        )
    if path.suffix in (".safetensors", ".json"):
        raise CheckpointError(f"{path} is one file of a model. Give its folder: {path.parent}")
    from branchwise.weights.gguf_checkpoint import GgufCheckpoint

    return GgufCheckpoint(path)
