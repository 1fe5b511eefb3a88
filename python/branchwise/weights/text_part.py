"""The decoder inside a checkpoint: which tensors are its own, and the config that is about it.

Files name the same decoder in many ways: `model.layers...`, without `model.` where only the trunk was saved, under
`language_model.` beside the towers of a model that also sees or hears, under the prefix of a wrapper.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from branchwise.errors import CheckpointError
from branchwise.weights.checkpoint import some
from branchwise.weights.matrix import HEAD

_ANCHOR = "embed_tokens.weight"  # every known decoder has one; what stands before it is the prefix
_OWN = re.compile(r"(embed_tokens|norm|layers\.\d+)\.")  # of a decoder without prefix: the rest may be a PRM's head
_NESTED = ("text_config", "llm_config", "language_config")
_TOWER = re.compile(
    r"(model\.)?(visual|vision_\w+|vit\w*|audio_\w+|image_newline|embed_vision|embed_audio|mm_projector|mlp1|connector"
    r"|aligner|multi_modal_projector|multimodal_projector|patch_merger)\b"
)


def text_config(config: dict[str, Any], source: str) -> dict[str, Any]:
    """The config of the decoder alone: its own fields first, then those of the whole model.

    CheckpointError: a field that should hold it is no object.
    """
    for name in _NESTED:
        if config.get(name) is None:
            continue
        nested = config[name]
        if not isinstance(nested, dict):
            raise CheckpointError(f"{source}: config field {name!r} is {str(nested)[:80]!r}; expected an object")
        whole = {key: value for key, value in config.items() if key not in (*_NESTED, "model_type")}
        # A LLaVA config leaves the type of its Llama out.
        merged = {"model_type": "llama", **whole, **nested}
        return merged | {key: config[key] for key in ("architectures", "tie_word_embeddings") if key in config}
    return config


def canonical_names(stored: Collection[str], config: dict[str, Any], source: str) -> dict[str, str]:
    """Stored names by the names that `Checkpoint` speaks of; towers for images and sound are left out.

    CheckpointError: two decoders, or two tensors of one name.
    """
    kept = [name for name in stored if not (_multimodal(config) and _TOWER.match(name))]
    anchors = [name for name in kept if name == _ANCHOR or name.endswith(f".{_ANCHOR}")]
    if len(anchors) > 1:
        raise CheckpointError(f"{source} holds several decoders, expected one: {some(anchors)}.")
    prefix = anchors[0].removesuffix(_ANCHOR) if anchors else "model."
    names: dict[str, str] = {}
    for original in sorted(kept):
        name = _canonical(original, prefix)
        if name in names:
            raise CheckpointError(f"{source}: tensors {names[name]!r} and {original!r} are both its {name!r}.")
        names[name] = original
    return names


def _canonical(name: str, prefix: str) -> str:
    if name == HEAD or name.endswith(f".{HEAD}"):
        return HEAD
    if prefix and name.startswith(prefix):
        return "model." + name[len(prefix) :]
    if not prefix and _OWN.match(name):
        return "model." + name
    # A wrapper's prefix stands before the heads beside the decoder, too.
    wrapper = prefix.removesuffix("model.")
    return name.removeprefix(wrapper) if wrapper and prefix != wrapper else name


def _multimodal(config: dict[str, Any]) -> bool:
    return any(name in config for name in (*_NESTED, "vision_config", "audio_config", "visual"))
