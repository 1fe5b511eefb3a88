"""`PRM_FORMATS` by name, and which one a checkpoint shows signs of: by its tensors and its class, never by its path."""

from __future__ import annotations

from collections.abc import Callable

from branchwise.errors import ConfigError
from branchwise.models.config import DecoderConfig
from branchwise.scoring.heads import (
    MLP_TENSORS,
    VALUE_TENSORS,
    Head,
    label_head,
    label_tensors,
    mlp_head,
    pair_head,
    value_head,
)  # fmt: skip
from branchwise.scoring.inputs import PieceFormat, PrmFormat, marker_format, tag_format, turn_format
from branchwise.text.tokenizer import Tokenizer
from branchwise.weights.checkpoint import Checkpoint

Built = tuple[PrmFormat, Head]
Builder = Callable[[Checkpoint, DecoderConfig, Tokenizer], Built]


def _tag(checkpoint: Checkpoint, config: DecoderConfig, tokenizer: Tokenizer) -> Built:
    made, good, bad = tag_format(tokenizer)
    return made, pair_head(checkpoint, config, good, bad)


def _turns(checkpoint: Checkpoint, config: DecoderConfig, tokenizer: Tokenizer) -> Built:
    made, good, bad = turn_format(tokenizer)
    return made, pair_head(checkpoint, config, good, bad)


def _marker(checkpoint: Checkpoint, config: DecoderConfig, tokenizer: Tokenizer) -> Built:
    return marker_format(tokenizer, checkpoint.source), mlp_head(checkpoint)


def _newline(checkpoint: Checkpoint, config: DecoderConfig, tokenizer: Tokenizer) -> Built:
    if tokenizer.token_id("[PRM]") is not None:
        raise ConfigError(
            f"{checkpoint.source} marks steps with '[PRM]' (PQM), a format that is not supported: choose another PRM"
        )
    return PieceFormat(tokenizer, "\n", one_line=True), value_head(checkpoint)


def _labels(separator: str) -> Builder:
    return lambda checkpoint, config, tokenizer: (PieceFormat(tokenizer, separator), label_head(checkpoint))


PRM_FORMATS: dict[str, Builder] = {
    "math-shepherd": _tag,
    "rlhflow": _turns,
    "qwen-prm": _marker,
    "skywork": _newline,
    "trl": _labels("\n\n"),
    "trl-lines": _labels("\n"),
}
_CAUSAL = ("math-shepherd", "rlhflow")
_HEADS = {"qwen-prm": MLP_TENSORS, "skywork": VALUE_TENSORS}


def head_tensors(checkpoint: Checkpoint) -> set[str]:
    """Names of the tensors of a checkpoint that belong to some reward head."""
    return {name for tensors in _HEADS.values() for name in tensors} | set(label_tensors(checkpoint))


def detect_format(checkpoint: Checkpoint) -> str:
    """Name of the format that a checkpoint shows signs of. ConfigError when it shows none: it may be any model."""
    names, classes = checkpoint.names(), checkpoint.config.get("architectures") or []
    for name, tensors in _HEADS.items():
        if names.issuperset(tensors):
            return name
    is_classifier = any(str(each).endswith("ForTokenClassification") for each in classes)
    if is_classifier and label_tensors(checkpoint):
        return "trl"
    known = f"of class {', '.join(map(str, classes))}" if classes else "of no known class"
    raise ConfigError(
        f"{checkpoint.source} ({known}) has no reward head, so nothing says that it judges steps: use a process reward"
        " model with its head, or, if this one was trained to say '+' or '-', choose how with prm_format="
        f" (--prm-format): {' or '.join(_CAUSAL)}. Formats with a head are"
        f" {', '.join(name for name in PRM_FORMATS if name not in _CAUSAL)}"
    )


def make_format(name: str, checkpoint: Checkpoint, config: DecoderConfig, tokenizer: Tokenizer) -> Built:
    """Build format and head by name ("auto": detect). ConfigError for an unknown name, or for want of its head."""
    name = detect_format(checkpoint) if name == "auto" else name
    if name not in PRM_FORMATS:
        raise ConfigError(f"prm_format={name!r}: expected auto or one of {', '.join(PRM_FORMATS)}")
    missing = set(_HEADS.get(name, ())) - checkpoint.names()
    if missing:
        raise ConfigError(f"prm_format={name!r} needs {', '.join(sorted(missing))}, which {checkpoint.source} lacks")
    return PRM_FORMATS[name](checkpoint, config, tokenizer)


def format_note(name: str, checkpoint: Checkpoint) -> str | None:
    """What a user should know who chose a format, or who left it to `detect_format`; None where all is certain."""
    if name in _CAUSAL:
        return (
            f"prm_format={name}: nothing in {checkpoint.source} says that it was trained to judge steps; if it was not"
            " trained for that, its scores mean nothing"
        )
    if name == "auto" and detect_format(checkpoint) == "trl":
        return (
            f"{checkpoint.source} does not say what separated its training steps: a blank line is assumed;"
            " --prm-format trl-lines is for one newline"
        )
    return None
