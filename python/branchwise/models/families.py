"""The family table: what tells Llama, Qwen, Mistral and Gemma apart, read from a Hugging Face style config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from branchwise.errors import CheckpointError

Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True, slots=True)
class Family:
    """Differences from the plain Llama decoder that no config field states."""

    qkv_bias: bool | None = None  # None: config's `attention_bias`
    qk_norm: bool = False  # RMS norm of each query and key head
    norm_add_one: bool = False  # norms multiply by 1 + weight
    sandwich_norms: bool = False  # norms after attention and after the MLP, too
    embed_scale: bool = False  # embeddings times sqrt(hidden size)
    activation: Activation = "silu"
    local_layers: bool = False  # sliding-window layers with a RoPE base of their own
    window_from: str = ""  # config field that must be true for `sliding_window` to count; "": it always counts


FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(qkv_bias=True, window_from="use_sliding_window"),
    "qwen3": Family(qk_norm=True, window_from="use_sliding_window"),
    "gemma3_text": Family(
        qk_norm=True,
        norm_add_one=True,
        sandwich_norms=True,
        embed_scale=True,
        activation="gelu_tanh",
        local_layers=True,
    ),
}
ALIASES = {"gemma3": "gemma3_text"}


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Shape of one decoder. `windows[layer]` 0 means global attention; `local_rope[layer]` picks the RoPE table."""

    family: Family
    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    eps: float
    tied: bool  # the embedding serves as lm_head where none is stored: see `head_name`
    qkv_bias: bool
    output_bias: bool
    scale: float  # of attention logits
    attention_softcap: float
    final_softcap: float
    rope_theta: float
    rope_local_theta: float
    rope_scaling: dict[str, Any]
    windows: tuple[int, ...]
    local_rope: tuple[bool, ...]

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of K and V of one token at two bytes a number."""
        return self.n_layers * 2 * self.n_kv_heads * self.head_dim * 2

    @property
    def matmul_parameters(self) -> int:
        """Parameters a token is multiplied with, lm_head included: FLOPs of a token are twice this."""
        attention = self.hidden_size * self.head_dim * (2 * self.n_heads + 2 * self.n_kv_heads)
        layer = attention + 3 * self.hidden_size * self.intermediate_size
        return self.n_layers * layer + self.hidden_size * self.vocab_size


def decoder_config(config: dict[str, Any], source: str) -> DecoderConfig:
    """Read a Hugging Face config. CheckpointError: unknown family, missing field."""
    model_type = str(config.get("model_type", ""))
    family = FAMILIES.get(ALIASES.get(model_type, model_type))
    if family is None:
        raise CheckpointError(
            f"{source}: architecture {model_type or config.get('architectures')!r} is not supported; "
            f"branchwise runs {', '.join(sorted(FAMILIES))} (config.json, field model_type)"
        )
    hidden, heads, layers = (_integer(config, name, source) for name in _CORE_FIELDS)
    head_dim = int(config.get("head_dim") or hidden // heads)
    rope, local_rope = _rope(config)
    windows = _windows(config, family, layers)
    scalar = config.get("query_pre_attn_scalar") or head_dim
    activation = config.get("hidden_activation") or config.get("hidden_act") or "silu"
    if activation not in _ACTIVATIONS[family.activation]:
        raise CheckpointError(f"{source}: activation {activation!r} does not fit model_type {model_type!r}")
    if float(config.get("attn_logit_softcapping") or 0) < 0 or float(config.get("final_logit_softcapping") or 0) < 0:
        raise CheckpointError(f"{source}: soft caps must not be negative")
    bias = bool(config.get("attention_bias", False))
    return DecoderConfig(
        family=family,
        hidden_size=hidden,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        intermediate_size=_integer(config, "intermediate_size", source),
        vocab_size=_integer(config, "vocab_size", source),
        max_positions=int(config.get("max_position_embeddings") or 4096),
        eps=float(config.get("rms_norm_eps", 1e-6)),
        tied=bool(config.get("tie_word_embeddings", family.embed_scale)),
        qkv_bias=bias if family.qkv_bias is None else family.qkv_bias,
        output_bias=bias and family.qkv_bias is None,
        scale=float(scalar) ** -0.5,
        attention_softcap=float(config.get("attn_logit_softcapping") or 0.0),
        final_softcap=float(config.get("final_logit_softcapping") or 0.0),
        rope_theta=rope[0],
        rope_local_theta=local_rope,
        rope_scaling=rope[1],
        windows=windows,
        local_rope=tuple(family.local_layers and window > 0 for window in windows),
    )


_CORE_FIELDS = ("hidden_size", "num_attention_heads", "num_hidden_layers")
_ACTIVATIONS = {"silu": {"silu", "swish"}, "gelu_tanh": {"gelu_pytorch_tanh", "gelu_tanh", "gelu"}}


def _integer(config: dict[str, Any], name: str, source: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{source}: config field {name!r} is {value!r}; expected a positive integer")
    return value


def _rope(config: dict[str, Any]) -> tuple[tuple[float, dict[str, Any]], float]:
    """((base, scaling), local base); transformers 5 nests these under `rope_parameters`, by layer type for Gemma."""
    parameters = config.get("rope_parameters") or {}
    full = parameters.get("full_attention", parameters) or {}
    local = parameters.get("sliding_attention") or {}
    theta = float(full.get("rope_theta") or config.get("rope_theta") or 10000.0)
    scaling = config.get("rope_scaling") or {name: full[name] for name in full if name != "rope_theta"}
    local_theta = float(local.get("rope_theta") or config.get("rope_local_base_freq") or theta)
    return (theta, dict(scaling)), local_theta


def _windows(config: dict[str, Any], family: Family, layers: int) -> tuple[int, ...]:
    """Sliding window of every layer in tokens, 0 where attention is global."""
    window = int(config.get("sliding_window") or 0)
    if family.window_from and not config.get(family.window_from, False):
        window = 0
    types = config.get("layer_types")
    if types:
        return tuple(window if kind == "sliding_attention" else 0 for kind in types)
    if family.local_layers:
        pattern = int(config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6)
        return tuple(0 if (layer + 1) % pattern == 0 else window for layer in range(layers))
    first = int(config.get("max_window_layers") or 0) if family.window_from else 0
    return tuple(window if layer >= first else 0 for layer in range(layers))
