"""Models by hub id: the configuration, tokenizer and safetensors of a repository, downloaded once and cached."""

from __future__ import annotations

import re
from pathlib import Path

from branchwise.errors import CheckpointError

# Owner and name as the hub allows them: no leading or trailing dot or dash, at most 96 characters each.
_HUB_ID = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}\w)?/[A-Za-z0-9_](?:[\w.-]{0,94}\w)?", re.ASCII)

_FILES = ("*.json", "*.jinja", "reward_head.safetensors")


def is_hub_id(source: str) -> bool:
    """True when `source` has the shape of a hub id, "org/name", and is not the path of a weight file."""
    return _HUB_ID.fullmatch(source) is not None and not source.endswith((".gguf", ".safetensors", ".bin"))


def fetch_snapshot(repo_id: str) -> Path:
    """Download a repository's configuration, tokenizer and safetensors, or find them in the cache.

    Returns the local folder. Raises CheckpointError when the repository is unknown or private, or the hub out of reach.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever HTTP library it uses

    from branchwise.weights.safetensors_folder import INDEX, SINGLE, shard_names

    try:
        folder = Path(snapshot_download(repo_id, allow_patterns=list(_FILES)))
        index = folder / INDEX
        weights = shard_names(index) if index.exists() else [SINGLE]
        return Path(snapshot_download(repo_id, allow_patterns=[*_FILES, *weights]))
    except CheckpointError:  # of the index
        raise
    except (OSError, ValueError, HTTPError) as error:
        raise CheckpointError(
            f"cannot get {repo_id!r} from the model hub, and no such folder exists here: {type(error).__name__}. "
            "Check the id and the network (private models need `hf auth login`), or download the model elsewhere and "
            "give the path of its folder or GGUF file."
        ) from error
