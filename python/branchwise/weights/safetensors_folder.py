"""A Hugging Face folder as a checkpoint: config.json and safetensors, one file or sharded, headers checked first."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from branchwise.errors import CheckpointError
from branchwise.weights.checkpoint import some, unknown_tensor
from branchwise.weights.json_file import damaged, read_json
from branchwise.weights.recommended import Recommended, of_folder
from branchwise.weights.safetensors_file import StoredTensor, read_header
from branchwise.weights.text_part import canonical_names, text_config

if TYPE_CHECKING:
    from branchwise.text.tokenizer import Tokenizer
    from branchwise.weights.blocks import BlockFormat, Blocks

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
REWARD_HEAD = "reward_head"  # of a reward model that keeps it in a file of its own
_LONGEST_NAME = 255  # that a file can have
_LOADABLE = ("F32", "F16", "BF16", "F64")
_NUMBERED = re.compile(r"(.*?)(\d{1,9})-of-(\d{1,9})\.safetensors", re.DOTALL)


class SafetensorsCheckpoint:
    """A model in a Hugging Face folder. See `Checkpoint`."""

    def __init__(self, folder: Path, source: str | None = None) -> None:
        self.source = source or str(folder)
        self._folder = folder
        config = read_json(folder / "config.json")
        stored = _read_folder(folder) | _read_reward_head(folder)
        self.config: dict[str, Any] = text_config(config, self.source)
        names = canonical_names(stored, config, self.source)
        self._tensors = {name: stored[original] for name, original in names.items()}

    def files(self) -> list[Path]:
        """config.json and the files of weights."""
        return [self._folder / "config.json", *sorted({tensor.path for tensor in self._tensors.values()})]

    def recommended(self) -> Recommended:
        """What generation_config.json says. CheckpointError for a damaged one."""
        return of_folder(self._folder)

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor. Raises CheckpointError for an unknown name."""
        return self._tensor(name).shape

    def load(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Copy one tensor out of its memory-mapped file. Raises CheckpointError, also for integer and 8-bit types."""
        return self._load(name, dtype, slice(None))

    def load_rows(self, name: str, begin: int, end: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows [begin, end) of a matrix. Raises CheckpointError."""
        return self._load(name, dtype, slice(begin, end))

    def _load(self, name: str, dtype: torch.dtype, rows: slice) -> torch.Tensor:
        stored = self._tensor(name)
        if stored.dtype not in _LOADABLE:
            raise CheckpointError(
                f"{stored.path}: tensor {name!r} is stored as {stored.dtype}, expected one of {', '.join(_LOADABLE)}. "
                "Use the unquantised model, or a GGUF file."
            )
        try:
            # Opened per tensor: closing drops the pages that were read, so they never add up to the whole file.
            with safe_open(stored.path, framework="pt") as file:
                whole = rows == slice(None)
                part = file.get_tensor(stored.name) if whole else file.get_slice(stored.name)[rows]
                return part.to(dtype, copy=True)  # type: ignore[no-any-return]
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{stored.path}: cannot read tensor {name!r}: {error}. Download it again.") from error

    def block_format(self, name: str) -> BlockFormat | None:
        """None: what quantised folders hold is refused. Raises CheckpointError for an unknown name."""
        self._tensor(name)
        return None

    def load_blocks(self, name: str, begin: int, end: int) -> Blocks:
        """Never called: no tensor has a block format."""
        raise CheckpointError(f"{self.source}: tensor {name!r} is not stored in blocks.")

    def tokenizer(self) -> Tokenizer:
        """Build the tokenizer from the folder. Raises TokenizerError."""
        from branchwise.text.tokenizer import Tokenizer

        return Tokenizer.from_folder(self._folder)

    def _tensor(self, name: str) -> StoredTensor:
        if name not in self._tensors:
            raise unknown_tensor(self.source, name, self._tensors)
        return self._tensors[name]


def shard_names(index: Path) -> list[str]:
    """The files that an index names. CheckpointError: it names none, or not all that were written together."""
    return sorted(set(_weight_map(index).values()))


def _read_folder(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a folder: `model.safetensors`, or the shards that `model.safetensors.index.json` lists."""
    single, index = folder / SINGLE, folder / INDEX
    if index.exists():
        tensors = _read_shards(index)
        if single.exists() and single not in {tensor.path for tensor in tensors.values()}:
            raise CheckpointError(
                f"{folder} holds {SINGLE}, and {INDEX}, which names other files: they come from two saves. "
                "Remove the one that is not meant."
            )
        return tensors
    if single.exists():
        return read_header(single)
    if list(folder.glob("*.bin")) or list(folder.glob("*.pt")):
        raise CheckpointError(
            f"{folder} holds pickled weights only, which can run code when loaded and are never read. "
            "Use a revision of the model with safetensors, or convert it: model.save_pretrained(folder)."
        )
    files = [path.name for path in folder.glob("*.gguf")]
    hint = f" To open a GGUF file, give its own path: {some(files)}." if files else ""
    raise CheckpointError(f"{folder}: neither {SINGLE} nor {INDEX} is there.{hint}")


def _read_reward_head(folder: Path) -> dict[str, StoredTensor]:
    """Tensors of `reward_head.safetensors`, where there is one."""
    path, pickle = (folder / f"{REWARD_HEAD}.{kind}" for kind in ("safetensors", "pt"))
    if path.exists():
        return {f"{REWARD_HEAD}.{name.removeprefix(f'{REWARD_HEAD}.')}": t for name, t in read_header(path).items()}
    if pickle.exists():
        raise CheckpointError(
            f"{pickle} is a pickle, which can run code when loaded and is never read. If you trust it, convert it: "
            f"safetensors.torch.save_file(torch.load({pickle.name!r}, weights_only=True), {path.name!r})."
        )
    return {}


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise damaged(index, "weight_map must map tensor names to shard files")
    if not weight_map:
        raise damaged(index, "weight_map names no tensor")
    shards = set(weight_map.values())
    for shard in sorted(shards):
        if Path(shard).name != shard or not shard.endswith(".safetensors") or len(shard) > _LONGEST_NAME:
            raise damaged(index, f"shard {shard[:80]!r} must be the name of a .safetensors file in the same folder")
    _check_numbers(index, shards)
    return weight_map


def _check_numbers(index: Path, shards: set[str]) -> None:
    """Shards that are numbered "k of n" are named all: what only an absent one holds might not be missed."""
    counts: dict[str, int] = {}
    numbers: defaultdict[str, set[int]] = defaultdict(set)
    for match in filter(None, map(_NUMBERED.fullmatch, shards)):
        stem, number, count = match[1], int(match[2]), int(match[3])
        if counts.setdefault(stem, count) != count:
            raise CheckpointError(f"{index} names shards of several saves: {some(shards)}. Download the model again.")
        numbers[stem].add(number)
    for stem, count in counts.items():
        if len(numbers[stem]) != count:
            raise CheckpointError(
                f"{index} names {len(numbers[stem])} of the {count} shards {stem}...-of-...: {some(shards)}. "
                "Download the model again."
            )


def _read_shards(index: Path) -> dict[str, StoredTensor]:
    weight_map = _weight_map(index)
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(weight_map.values())):
        if not (index.parent / shard).exists():
            raise CheckpointError(f"{index}: shard {shard!r} is missing. Download the model again.")
        found = read_header(index.parent / shard)
        listed = {name for name, file in weight_map.items() if file == shard}
        _same(index, f"are listed in {shard} but are not there", listed - set(found))
        _same(index, "are stored in two shards", set(found) & set(tensors))
        _same(index, f"are stored in {shard} but not listed there", set(found) - listed)
        tensors |= found
    return tensors


def _same(index: Path, problem: str, names: set[str]) -> None:
    if names:
        raise CheckpointError(f"{index}: tensors {problem}: {some(names)}. Download the model again.")
