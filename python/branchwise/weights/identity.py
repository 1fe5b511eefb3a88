"""Which model it is, by its content: the same in another folder or under another name, another when it was trained on.

The digest covers every small file that a checkpoint or its tokenizer is read from, and of weights the headers, the
sizes, and the first, middle and last bytes of every tensor. That is a read of some megabytes, however large the model.
A training step changes it; an edit of single values in the middle of a matrix may not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from branchwise.errors import CheckpointError
from branchwise.weights.checkpoint import Checkpoint
from branchwise.weights.gguf_file import read_gguf
from branchwise.weights.safetensors_file import read_header

_SAMPLE = 4096  # bytes, three times a tensor
_BESIDE = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")  # configuration, tokenizer, chat template


def identity(checkpoint: Checkpoint) -> str:
    """ "qwen2, 494032768 weights, 1f2e3d4c5b6a": the same for every copy. CheckpointError: a file cannot be read."""
    digest = blake2b(digest_size=6)
    weights = checkpoint.files()
    try:
        for path in sorted({*weights, *_beside(weights[0])}):
            digest.update(b"%d\n" % path.stat().st_size)
            with path.open("rb") as file:
                for begin, end in _read_parts(path):
                    file.seek(begin)
                    digest.update(file.read(end - begin))
    except OSError as error:
        raise CheckpointError(f"{checkpoint.source} cannot be read: {error.strerror}") from error
    count = sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names())
    return f"{checkpoint.config.get('model_type', 'model')}, {count} weights, {digest.hexdigest()}"


def _beside(path: Path) -> Iterator[Path]:
    """What belongs to a model but its weights; a GGUF file holds all of it."""
    if path.suffix in (".json", ".safetensors"):
        for pattern in _BESIDE:
            yield from (file for file in path.parent.glob(pattern) if file.is_file())


def _read_parts(path: Path) -> list[tuple[int, int]]:
    """What is read of a file, as bytes [begin, end)."""
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        tensors = read_header(path).values()
        data = size - max((each.end for each in tensors), default=0)
        places = sorted((data + each.begin, data + each.end) for each in tensors)
    elif path.suffix == ".json" or any(path.match(pattern) for pattern in _BESIDE):
        return [(0, size)]
    else:
        places = sorted((each.offset, each.offset + each.n_bytes) for each in read_gguf(path).tensors.values())
    header = (0, min((begin for begin, _ in places), default=size))
    return [header, *(part for begin, end in places for part in _samples(begin, end))]


def _samples(begin: int, end: int) -> list[tuple[int, int]]:
    if end - begin <= 3 * _SAMPLE:
        return [(begin, end)]
    middle = (begin + end - _SAMPLE) // 2
    return [(begin, begin + _SAMPLE), (middle, middle + _SAMPLE), (end - _SAMPLE, end)]
