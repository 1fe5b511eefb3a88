"""GGUF metadata as the config.json that the same model has on Hugging Face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from branchwise.errors import CheckpointError
from branchwise.weights.gguf_file import GgufFile
from branchwise.weights.gguf_metadata import Metadata
from branchwise.weights.gguf_rope import rope_scaling


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one `general.architecture` maps to a Hugging Face model class."""

    hf_class: str
    model_type: str
    activation: tuple[str, str] = ("hidden_act", "silu")
    rope_theta: float = 10000.0  # where the file has none
    interleaved_rope: bool = False  # the converter reorders the rows of q and k for RoPE on neighbouring pairs
    norm_plus_one: bool = False  # the converter adds one to every norm weight
    window: Literal["", "mistral", "own"] = (
        ""  # what a sliding window means: an error, a Mistral, or a field of its own
    )
    partial_rope: bool = False  # a part of the head may be rotated
    allowed: tuple[str, ...] = ()  # of `_UNSUPPORTED`


_GELU = "gelu_pytorch_tanh"
_SCALES = ("attention.scale", "logit_scale", "embedding_scale", "residual_scale")
_SOFTCAPS = ("attn_logit_softcapping", "final_logit_softcapping")

ARCHITECTURES = {
    "llama": Architecture("LlamaForCausalLM", "llama", interleaved_rope=True, window="mistral"),
    "qwen2": Architecture("Qwen2ForCausalLM", "qwen2"),
    "qwen2vl": Architecture("Qwen2VLForConditionalGeneration", "qwen2"),
    "qwen3": Architecture("Qwen3ForCausalLM", "qwen3"),
    "qwen3vl": Architecture("Qwen3VLForConditionalGeneration", "qwen3"),
    "gemma": Architecture("GemmaForCausalLM", "gemma", ("hidden_act", _GELU), norm_plus_one=True),
    "gemma2": Architecture(
        "Gemma2ForCausalLM", "gemma2", ("hidden_activation", _GELU), norm_plus_one=True, window="own", allowed=_SOFTCAPS
    ),
    "gemma3": Architecture(
        "Gemma3ForCausalLM", "gemma3_text", ("hidden_activation", _GELU), 1e6, norm_plus_one=True, window="own",
        allowed=_SOFTCAPS,
    ),
    "phi3": Architecture("Phi3ForCausalLM", "phi3", window="own", partial_rope=True),
    "granite": Architecture("GraniteForCausalLM", "granite", interleaved_rope=True, allowed=_SCALES),
    "smollm3": Architecture("SmolLM3ForCausalLM", "smollm3", interleaved_rope=True),
}  # fmt: skip

# Metadata that changes the arithmetic of a model, in ways that most architectures above do not have.
_UNSUPPORTED = (
    *_SCALES, *_SOFTCAPS, "attention.clamp_kqv", "attention.max_alibi_bias", "attention.temperature_scale",
    "attention.output_scale", "attention.q_lora_rank", "attention.kv_lora_rank", "rope.dimension_count_swa",
    "rope.scaling.alpha", "use_parallel_residual", "attention.layer_norm_epsilon",
)  # fmt: skip
_EXPERTS = ("deepseek", "deepseek2", "gpt-oss", "dbrx", "grok", "llama4", "arctic", "minimax-m2", "dots1", "jais2")
_GEMMA2_27B_LAYERS, _GEMMA3_27B_LAYERS = 46, 62  # the sizes whose attention scale is not 1/sqrt(head_dim)
_GEMMA3_PATTERN = 6  # every sixth layer sees everything
_SMOLLM3_INTERVAL = 4  # every fourth layer is without RoPE: no metadata says so


def architecture_of(file: GgufFile) -> Architecture:
    """The architecture of a file. Raises CheckpointError naming the known ones."""
    name = file.metadata.get("general.architecture")
    if isinstance(name, str) and name in ARCHITECTURES:
        return ARCHITECTURES[name]
    why = ": a mixture of experts" if isinstance(name, str) and ("moe" in name or name in _EXPERTS) else ""
    raise CheckpointError(
        f"{file.path}: architecture {str(name)[:80]!r} is not supported{why}. "
        f"Use a model of one of {', '.join(ARCHITECTURES)}."
    )


def gguf_config(file: GgufFile) -> dict[str, Any]:
    """The Hugging Face configuration of a GGUF model.

    Raises CheckpointError for an unknown architecture, and for metadata that is missing, of the wrong type, or asks for
    arithmetic that is not supported.
    """
    architecture = architecture_of(file)
    meta = Metadata(file)
    if file.metadata.get(meta.key("expert_count")):
        raise meta.error("expert_count", "is not supported: a mixture of experts")
    for key in _UNSUPPORTED:
        if key not in architecture.allowed and file.metadata.get(meta.key(key)):
            raise meta.error(key, "is not supported")
    if file.metadata.get(meta.key("attention.causal"), True) is not True:
        raise meta.error("attention.causal", "is not supported: expected a decoder")
    config, width = _common(meta, architecture)
    config |= _window(meta, architecture)
    own = {"gemma2": _gemma2, "gemma3_text": _gemma3, "granite": _granite, "phi3": _phi3, "smollm3": _smollm3}
    if architecture.model_type in own:
        config |= own[architecture.model_type](meta, config)
    config["rope_scaling"] = rope_scaling(meta, config, width)
    return config


def _common(meta: Metadata, architecture: Architecture) -> tuple[dict[str, Any], int]:
    """What every architecture has, and how many dimensions of a head are rotated."""
    hidden, n_heads = meta.integer("embedding_length"), meta.integer("attention.head_count")
    head_dim = meta.integer("attention.key_length", hidden // n_heads)
    width = meta.integer("rope.dimension_count", head_dim)
    for name in ("attention.value_length", *(() if architecture.partial_rope else ("rope.dimension_count",))):
        if meta.integer(name, head_dim) != head_dim:
            raise meta.error(name, f"must equal the head dimension, {head_dim}")
    if not 0 < width <= head_dim or width % 2:
        raise meta.error("rope.dimension_count", f"must be an even number up to the head dimension, {head_dim}")
    embedding = meta.file.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(f"{meta.file.path}: tensor token_embd.weight is missing. Download the file again.")
    n_layers = meta.integer("block_count")
    if n_layers > len(meta.file.tensors):
        raise meta.error("block_count", f"is more than the {len(meta.file.tensors)} tensors of the file")
    eos, eot = meta.token("eos"), meta.token("eot")
    config = {
        "architectures": [architecture.hf_class],
        "model_type": architecture.model_type,
        architecture.activation[0]: architecture.activation[1],
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": meta.integer("feed_forward_length"),
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "num_key_value_heads": meta.integer("attention.head_count_kv", n_heads),
        "head_dim": head_dim,
        "max_position_embeddings": meta.integer("context_length"),
        "rms_norm_eps": meta.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": meta.number("rope.freq_base", architecture.rope_theta),
        "attention_bias": "blk.0.attn_q.bias" in meta.file.tensors,
        "tie_word_embeddings": "output.weight" not in meta.file.tensors,
        "bos_token_id": meta.token("bos"),
        "eos_token_id": [eos, eot] if None not in (eos, eot) and eos != eot else eos,
    }
    return config | ({"partial_rotary_factor": width / head_dim} if architecture.partial_rope else {}), width


def _window(meta: Metadata, architecture: Architecture) -> dict[str, Any]:
    window = meta.integer("attention.sliding_window", 0)
    if window and architecture.window == "mistral":
        return {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": window}
    if window and not architecture.window:
        raise meta.error("attention.sliding_window", "is not supported for this architecture")
    return {"sliding_window": window or None}


def _softcap(meta: Metadata, name: str, default: float | None) -> float | None:
    if default is None and not meta.file.metadata.get(meta.key(name)):
        return None
    return meta.number(name, default)


def _gemma_scalar(config: dict[str, Any], layers_of_27b: int) -> int:
    hidden, n_heads = config["hidden_size"], config["num_attention_heads"]
    scalar: int = hidden // n_heads if config["num_hidden_layers"] == layers_of_27b else config["head_dim"]
    return scalar


def _gemma2(meta: Metadata, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "sliding_window": config["sliding_window"] or 4096,
        "query_pre_attn_scalar": _gemma_scalar(config, _GEMMA2_27B_LAYERS),
        "attn_logit_softcapping": _softcap(meta, "attn_logit_softcapping", 50.0),
        "final_logit_softcapping": _softcap(meta, "final_logit_softcapping", 30.0),
    }


def _gemma3(meta: Metadata, config: dict[str, Any]) -> dict[str, Any]:
    n_layers = config["num_hidden_layers"]
    sliding = meta.file.metadata.get(meta.key("attention.sliding_window_pattern"), _GEMMA3_PATTERN)
    if type(sliding) is int and sliding > 0:
        sliding = [(layer + 1) % sliding != 0 for layer in range(n_layers)]
    if not isinstance(sliding, list) or len(sliding) != n_layers:
        raise meta.error("attention.sliding_window_pattern", f"must be a period or {n_layers} booleans")
    if not config["sliding_window"]:
        raise meta.error("attention.sliding_window", "must be a positive integer")
    return {
        "layer_types": ["sliding_attention" if local else "full_attention" for local in sliding],
        "query_pre_attn_scalar": _gemma_scalar(config, _GEMMA3_27B_LAYERS),
        "rope_local_base_freq": meta.number("rope.freq_base_swa", 10000.0),
        "attn_logit_softcapping": _softcap(meta, "attn_logit_softcapping", None),
        "final_logit_softcapping": _softcap(meta, "final_logit_softcapping", None),
    }


def _granite(meta: Metadata, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "attention_multiplier": meta.number("attention.scale", config["head_dim"] ** -0.5),
        "embedding_multiplier": meta.number("embedding_scale", 1.0),
        "residual_multiplier": meta.number("residual_scale", 1.0),
        "logits_scaling": meta.number("logit_scale", 1.0),
    }


def _phi3(meta: Metadata, config: dict[str, Any]) -> dict[str, Any]:
    original = meta.integer("rope.scaling.original_context_length", config["max_position_embeddings"])
    return {"original_max_position_embeddings": original}


def _smollm3(meta: Metadata, config: dict[str, Any]) -> dict[str, Any]:
    return {"no_rope_layer_interval": _SMOLLM3_INTERVAL}
