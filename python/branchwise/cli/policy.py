"""What a policy's checkpoint says of sampling and of prompts, beside what is used: said, never applied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from branchwise.config import EngineConfig

if TYPE_CHECKING:
    from branchwise.text.tokenizer import Tokenizer
    from branchwise.weights.recommended import Recommended


def policy_report(policy: str) -> dict[str, Any]:
    """Sampling and prompts of a checkpoint. Raises as `Engine` does when they cannot be read."""
    from branchwise.weights import open_checkpoint

    checkpoint = open_checkpoint(policy)
    recommended, config = checkpoint.recommended(), EngineConfig()
    return {
        "recommended": dict(recommended.values),
        "used": _used(recommended.values, config),
        "notes": sampling_notes(recommended, config) or ["the policy recommends no sampling of its own"],
        **_prompts(checkpoint.tokenizer()),
    }


def policy_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The report as lines of a table."""
    system = "a system message" if report["system role"] else "part of the question: this template has no system role"
    return [
        *(("sampling", note) for note in report["notes"]),
        ("end tokens", ", ".join(map(str, report["end tokens"])) or "none"),
        ("chat template", "yes" if report["chat template"] else "none: prompts are plain text"),
        *([("  reads", ", ".join(report["reads"])), ("  instruction", system)] if report["chat template"] else []),
    ]


def sampling_notes(recommended: Recommended, config: EngineConfig) -> list[str]:
    """Lines that tell what is recommended from what is used; none where nothing is recommended."""
    notes = [
        f"the policy recommends {_name(name)} {text}, which is no number" for name, text in recommended.odd.items()
    ]
    values = recommended.values
    if not values:
        return notes
    ours = _used(values, config)
    advice = f"the policy recommends {_words(values)}"
    if ours == values:
        return [*notes, f"{advice}, as used"]
    options = " ".join(f"--{_name(name)} {values[name]:g}" for name in ours)
    return [*notes, f"{advice}; used: {_words(ours)} (for theirs: {options})" if ours else f"{advice}; none is used"]


def _used(values: Mapping[str, float], config: EngineConfig) -> dict[str, float]:
    """The engine's own number for everything that is recommended and that it knows."""
    return {name: getattr(config, name) for name in values if hasattr(config, name)}


def _prompts(tokenizer: Tokenizer) -> dict[str, Any]:
    from branchwise.chat_options import NO_OPTIONS
    from branchwise.text.system_role import takes_system

    chat = tokenizer.chat
    return {
        "end tokens": sorted(tokenizer.eos_ids),
        "chat template": chat is not None,
        "reads": [] if chat is None else sorted(chat.reads),
        "system role": chat is not None and takes_system(chat, NO_OPTIONS),
    }


def _words(values: Mapping[str, float]) -> str:
    return ", ".join(f"{_name(name)} {value:g}" for name, value in values.items())


def _name(name: str) -> str:
    return name.replace("_", "-")
