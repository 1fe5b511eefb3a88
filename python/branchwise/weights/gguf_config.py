"""GGUF metadata as the config.json that the same model has on Hugging Face."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from branchwise.errors import CheckpointError
from branchwise.weights.dequantise import read_tensor
from branchwise.weights.gguf_file import GgufFile


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one `general.architecture` maps to a Hugging Face model class."""

    hf_class: str
    model_type: str
    activation: tuple[str, str] = ("hidden_act", "silu")
    rope_theta: float = 10000.0  # where the file has none
    interleaved_rope: bool = False  # the converter reorders the rows of q and k for RoPE on neighbouring pairs
    norm_plus_one: bool = False  # the converter adds one to every norm weight


ARCHITECTURES = {
    "llama": Architecture("LlamaForCausalLM", "llama", interleaved_rope=True),
    "qwen2": Architecture("Qwen2ForCausalLM", "qwen2"),
    "qwen3": Architecture("Qwen3ForCausalLM", "qwen3"),
    "gemma3": Architecture(
        "Gemma3ForCausalLM", "gemma3_text", ("hidden_activation", "gelu_pytorch_tanh"), 1e6, norm_plus_one=True
    ),
}

# Metadata that changes the arithmetic of a model in ways that no architecture above has.
_UNSUPPORTED = ("expert_count", "attention.scale", "logit_scale", "embedding_scale", "residual_scale")
_GEMMA3_27B_LAYERS = 62  # the one size whose attention scale is not 1/sqrt(head_dim)
_GEMMA3_PATTERN = 6  # every sixth layer sees everything
_LLAMA3_CONTEXT, _LLAMA3_LOW, _LLAMA3_HIGH = 8192, 1.0, 4.0


def architecture_of(file: GgufFile) -> Architecture:
    """The architecture of a file. Raises CheckpointError naming the known ones."""
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise CheckpointError(
            f"{file.path}: architecture {name!r} is not supported. Use a model of one of {', '.join(ARCHITECTURES)}."
        )
    return ARCHITECTURES[name]


def gguf_config(file: GgufFile) -> dict[str, Any]:
    """The Hugging Face configuration of a GGUF model.

    Raises CheckpointError for an unknown architecture, and for metadata that is missing, of the wrong type, or asks for
    arithmetic that is not supported.
    """
    architecture = architecture_of(file)
    meta = _Metadata(file)
    for key in _UNSUPPORTED:
        if file.metadata.get(meta.key(key)):
            raise meta.error(key, "is not supported")
    config = _common(meta, architecture)
    window = meta.integer("attention.sliding_window", 0)
    if architecture.model_type == "gemma3_text":
        config |= _gemma3(meta, config, window)
    elif window and architecture.model_type == "llama":
        config |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": window}
    elif window:
        raise meta.error("attention.sliding_window", "is not supported for this architecture")
    config["rope_scaling"] = _rope_scaling(meta, config)
    return config


class _Metadata:
    """Typed look-ups under the architecture's prefix; a missing or wrong value is an error that names the key."""

    def __init__(self, file: GgufFile) -> None:
        self.file, self.prefix = file, file.metadata["general.architecture"]

    def key(self, name: str) -> str:
        return name if name.startswith("tokenizer.") else f"{self.prefix}.{name}"

    def error(self, name: str, problem: str) -> CheckpointError:
        key = self.key(name)
        return CheckpointError(f"{self.file.path}: metadata {key} = {self.file.metadata.get(key)!r} {problem}.")

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.file.metadata.get(self.key(name), default)
        if isinstance(value, list) and len(set(value)) == 1:  # some converters write one value per layer
            value = value[0]
        if type(value) is not int or value < 0 or (value == 0 and default is None):
            raise self.error(name, "must be a positive integer, the same for every layer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.file.metadata.get(self.key(name), default)
        if not isinstance(value, float | int) or not math.isfinite(value) or value <= 0:
            raise self.error(name, "must be a positive number")
        # The file holds fp32: give back the shortest decimal of it, 1e-06 rather than 9.999999974752427e-07.
        return float(str(np.float32(value)))

    def token(self, name: str) -> int | None:
        value = self.file.metadata.get(self.key(f"tokenizer.ggml.{name}_token_id"))
        return value if type(value) is int else None


def _common(meta: _Metadata, architecture: Architecture) -> dict[str, Any]:
    hidden, n_heads = meta.integer("embedding_length"), meta.integer("attention.head_count")
    head_dim = meta.integer("attention.key_length", hidden // n_heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if meta.integer(name, head_dim) != head_dim:
            raise meta.error(name, f"must equal the head dimension, {head_dim}")
    embedding = meta.file.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(f"{meta.file.path}: tensor token_embd.weight is missing. Download the file again.")
    n_layers = meta.integer("block_count")
    if n_layers > len(meta.file.tensors):
        raise meta.error("block_count", f"is more than the {len(meta.file.tensors)} tensors of the file")
    eos, eot = meta.token("eos"), meta.token("eot")
    return {
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
        "sliding_window": None,
        "bos_token_id": meta.token("bos"),
        "eos_token_id": [eos, eot] if None not in (eos, eot) and eos != eot else eos,
    }


def _gemma3(meta: _Metadata, config: dict[str, Any], window: int) -> dict[str, Any]:
    n_layers = config["num_hidden_layers"]
    sliding = meta.file.metadata.get(meta.key("attention.sliding_window_pattern"), _GEMMA3_PATTERN)
    if type(sliding) is int and sliding > 0:
        sliding = [(layer + 1) % sliding != 0 for layer in range(n_layers)]
    if not isinstance(sliding, list) or len(sliding) != n_layers:
        raise meta.error("attention.sliding_window_pattern", f"must be a period or {n_layers} booleans")
    if not window:
        raise meta.error("attention.sliding_window", "must be a positive integer")
    hidden, n_heads = config["hidden_size"], config["num_attention_heads"]
    return {
        "sliding_window": window,
        "layer_types": ["sliding_attention" if local else "full_attention" for local in sliding],
        "query_pre_attn_scalar": hidden // n_heads if n_layers == _GEMMA3_27B_LAYERS else config["head_dim"],
        "rope_local_base_freq": meta.number("rope.freq_base_swa", 10000.0),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    }


def _rope_scaling(meta: _Metadata, config: dict[str, Any]) -> dict[str, Any] | None:
    if "rope_freqs.weight" in meta.file.tensors:
        return _llama3_scaling(meta, config)
    kind = meta.file.metadata.get(meta.key("rope.scaling.type"), "none")
    makers: dict[str, Callable[[], dict[str, Any] | None]] = {
        "none": lambda: None,
        "linear": lambda: {"rope_type": "linear", "factor": meta.number("rope.scaling.factor")},
        "yarn": lambda: {
            "rope_type": "yarn",
            "factor": meta.number("rope.scaling.factor"),
            "original_max_position_embeddings": meta.integer("rope.scaling.original_context_length"),
        },
    }
    if not isinstance(kind, str) or kind not in makers:
        raise meta.error("rope.scaling.type", f"is not supported: expected one of {', '.join(makers)}")
    return makers[kind]()


def _llama3_scaling(meta: _Metadata, config: dict[str, Any]) -> dict[str, Any]:
    """Recover Llama 3's rule from the frequency divisors that the file stores, and check that it gives them back."""
    tensor = meta.file.tensors["rope_freqs.weight"]
    if tensor.shape != (config["head_dim"] // 2,):
        raise CheckpointError(f"{meta.file.path}: rope_freqs.weight has shape {tensor.shape}, expected half a head.")
    stored = read_tensor(tensor, torch.float32).double().numpy()
    scaling = {
        "rope_type": "llama3",
        "factor": float(np.round(stored.max(), 4)),
        "low_freq_factor": _LLAMA3_LOW,
        "high_freq_factor": _LLAMA3_HIGH,
        "original_max_position_embeddings": meta.integer("rope.scaling.original_context_length", _LLAMA3_CONTEXT),
    }
    expected = llama3_divisors(config["head_dim"], config["rope_theta"], scaling)
    if not np.allclose(stored, expected, rtol=1e-4):
        raise CheckpointError(
            f"{meta.file.path}: rope_freqs.weight does not follow Llama 3's rule with {scaling}. "
            "Use the safetensors folder of this model."
        )
    return scaling


def llama3_divisors(head_dim: int, theta: float, scaling: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Divisors of the RoPE frequencies under Llama 3's rule: [head_dim / 2] fp64.

    1 for short wavelengths, `factor` for long ones, and a smooth blend of the two frequencies between.
    """
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] / wavelengths
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - blend) / scaling["factor"] + blend))
