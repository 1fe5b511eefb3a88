"""How the makers of a model would sample from it: generation_config.json, or what a GGUF file says. Never applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from branchwise.weights.json_file import read_json

FILE = "generation_config.json"
_NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
_GGUF = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_p": "top_p",
    "general.sampling.top_k": "top_k",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}


@dataclass(frozen=True, slots=True)
class Recommended:
    """values: by their names in `EngineConfig`    odd: what was written there and is no number."""

    values: Mapping[str, float] = field(default_factory=dict)
    odd: Mapping[str, str] = field(default_factory=dict)


def of_folder(folder: Path) -> Recommended:
    """What a model folder recommends; nothing where it has no such file. CheckpointError for a damaged one."""
    path = folder / FILE
    if not path.exists():
        return Recommended()
    given = read_json(path)
    if given.get("do_sample") is False:
        given["temperature"] = 0
    return _chosen(given)


def of_metadata(metadata: Mapping[str, Any]) -> Recommended:
    """What a GGUF file recommends."""
    return _chosen({name: metadata[key] for key, name in _GGUF.items() if key in metadata})


def _chosen(given: Mapping[str, Any]) -> Recommended:
    values: dict[str, float] = {}
    odd: dict[str, str] = {}
    for name in _NAMES:
        value = given.get(name)
        if value is None:
            continue
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9:  # no NaN is
            # Six digits: a GGUF file keeps 0.95 in 32 bits.
            values[name] = int(value) if name == "top_k" else float(f"{value:.6g}")
        else:
            odd[name] = repr(value)[:40]
    return Recommended(values, odd)
