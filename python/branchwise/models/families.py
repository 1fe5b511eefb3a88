"""The family table: what tells Llama, Qwen, Gemma, Phi and the others apart, and which architectures are refused, why.

`docs/models.md` has the same for users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Norms = tuple[str, str, str, str]
"""Names of a layer's norms: before attention, after it, before the MLP, after it; "": there is none."""

PRE: Norms = ("input_layernorm", "", "post_attention_layernorm", "")
SANDWICH: Norms = (
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
)  # fmt: skip
GLM4_NORMS: Norms = (
    "input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm",
)  # fmt: skip

LLAMA_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "hidden_act": "silu", "tie_word_embeddings": False, "attention_bias": False,
}  # fmt: skip
"""What transformers takes where a config is silent: nested configs often hold only what differs."""


@dataclass(frozen=True, slots=True)
class Family:
    """Differences from the plain Llama decoder that no config field states."""

    defaults: Mapping[str, Any] = field(default_factory=dict)  # on top of `LLAMA_DEFAULTS`
    qkv_bias: bool | str = "attention_bias"  # or the config field that says so
    output_bias: bool | str = "attention_bias"
    norms: Norms = PRE
    qk_norm: bool = False  # RMS norm of each query and key head
    norm_add_one: bool = False  # norms multiply by 1 + weight
    root_embedding: bool = False  # embeddings times sqrt(hidden size)
    multipliers: bool = False  # of embeddings, residuals, attention and logits: Granite's config fields
    activation: str = "hidden_act"  # the config field that names it
    softcaps: bool = False  # of attention and logits, and `query_pre_attn_scalar`
    window: Literal["", "always", "use_sliding_window"] = (
        ""  # whether `sliding_window` counts; or the flag that says so
    )
    period: int = 0  # where `layer_types` is absent: every so manieth layer sees everything, the others the window
    local_rope: bool = False  # layers with a window have a RoPE base of their own
    some_without_rope: bool = False  # `no_rope_layers`
    fused_qkv: bool = False  # stored as one matrix, qkv_proj
    fused_mlp: bool = False  # stored as one matrix, gate_up_proj
    interleaved: bool = False  # RoPE turns neighbouring dimensions
    rope_aliases: Mapping[str, str] = field(default_factory=dict)


_QWEN2_DEFAULTS = {
    "vocab_size": 151936, "intermediate_size": 22016, "max_position_embeddings": 32768, "use_sliding_window": False,
    "max_window_layers": 28,
}  # fmt: skip
_QWEN2 = Family(_QWEN2_DEFAULTS, qkv_bias=True, output_bias=False, window="use_sliding_window")
_QWEN2_VL = Family(
    _QWEN2_DEFAULTS | {
        "vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
        "num_attention_heads": 64, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "max_window_layers": 80,
        "sliding_window": 4096,
    },
    qkv_bias=True, output_bias=False, window="use_sliding_window", rope_aliases={"mrope": "default"},
)  # fmt: skip
_QWEN3_DEFAULTS = _QWEN2_DEFAULTS | {"head_dim": 128}
_MISTRAL_DEFAULTS = {
    "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096,
}  # fmt: skip
_GEMMA_DEFAULTS = {
    "vocab_size": 256000, "head_dim": 256, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip
_GEMMA2_DEFAULTS = _GEMMA_DEFAULTS | {
    "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256,
    "sliding_window": 4096, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0,
}  # fmt: skip
_GEMMA3_DEFAULTS = _GEMMA2_DEFAULTS | {
    "vocab_size": 262208, "max_position_embeddings": 131072, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
    "final_logit_softcapping": None, "attn_logit_softcapping": None,
}  # fmt: skip
_GLM_DEFAULTS = {
    "vocab_size": 151552, "intermediate_size": 13696, "num_hidden_layers": 40, "num_key_value_heads": 2,
    "head_dim": 128, "max_position_embeddings": 131072, "rms_norm_eps": 1.5625e-7, "attention_bias": True,
    "partial_rotary_factor": 0.5,
}  # fmt: skip

FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(_MISTRAL_DEFAULTS, qkv_bias=False, output_bias=False, window="always"),
    "ministral": Family(_MISTRAL_DEFAULTS, qkv_bias=False, output_bias=False, window="always"),
    "qwen2": _QWEN2,
    "qwen2_vl": _QWEN2_VL,
    "qwen3": Family(_QWEN3_DEFAULTS, qk_norm=True, window="use_sliding_window"),
    "qwen3_vl_text": Family(
        _QWEN3_DEFAULTS | {"num_key_value_heads": 32, "max_position_embeddings": 128000, "rope_theta": 500000.0},
        qk_norm=True, rope_aliases={"mrope": "default"},
    ),
    "gemma": Family(
        _GEMMA_DEFAULTS | {
            "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28, "num_attention_heads": 16,
            "hidden_act": "gelu_pytorch_tanh",
        },
        norm_add_one=True, root_embedding=True,
    ),
    "gemma2": Family(
        _GEMMA2_DEFAULTS, norms=SANDWICH, norm_add_one=True, root_embedding=True, activation="hidden_activation",
        softcaps=True, window="always", period=2,
    ),
    "gemma3_text": Family(
        _GEMMA3_DEFAULTS, norms=SANDWICH, qk_norm=True, norm_add_one=True, root_embedding=True,
        activation="hidden_activation", softcaps=True, window="always", period=6, local_rope=True,
    ),
    "phi3": Family(
        {
            "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "partial_rotary_factor": 1.0,
        },
        qkv_bias=False, output_bias=False, window="always", fused_qkv=True, fused_mlp=True,
        rope_aliases={"su": "longrope", "yarn": "longrope"},
    ),
    "granite": Family(
        {"embedding_multiplier": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0, "logits_scaling": 1.0},
        multipliers=True,
    ),
    "smollm3": Family(
        {
            "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16,
            "num_key_value_heads": 4, "max_position_embeddings": 32768, "rope_theta": 2e6,
            "tie_word_embeddings": True, "use_sliding_window": False, "no_rope_layer_interval": 4,
        },
        window="use_sliding_window", some_without_rope=True,
    ),
    "glm": Family(_GLM_DEFAULTS, output_bias=False, fused_mlp=True, interleaved=True),
    "glm4": Family(_GLM_DEFAULTS, output_bias=False, norms=GLM4_NORMS, fused_mlp=True, interleaved=True),
    "ernie4_5": Family(
        {
            "vocab_size": 103424, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 18,
            "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True, "use_bias": False,
        },
        qkv_bias="use_bias", output_bias="use_bias", interleaved=True,
    ),
    "seed_oss": Family(
        {
            "vocab_size": 155136, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 80,
            "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 524288, "attention_bias": True,
            "attention_out_bias": False,
        },
        output_bias="attention_out_bias",
    ),
}  # fmt: skip
ALIASES = {
    "gemma3": "gemma3_text",
    "qwen2_vl_text": "qwen2_vl",
    "qwen2_5_vl": "qwen2_vl",
    "qwen2_5_vl_text": "qwen2_vl",
    "qwen3_vl": "qwen3_vl_text",
}

_EXPERTS = "a mixture of experts"
_STATE = "layers that are not attention (state space, convolution or linear attention)"
_LAYER_NORM = "layer norms with a mean, and biases"
_POST_NORM = "norms after a layer and none before it"
_OWN_CODE = "a model of its own code; take a conversion to Llama's layout, where there is one"
_REASONS: dict[str, str] = {
    _EXPERTS: "mixtral qwen2_moe qwen3_moe qwen3_vl_moe olmoe flex_olmo phimoe gpt_oss granitemoe granitemoeshared "
    "jetmoe dbrx llama4 llama4_text glm4_moe glm4v_moe ernie4_5_moe minimax minimax_m2 hunyuan_v1_moe grok-1 arctic "
    "bailing_moe dots1 exaone_moe lfm2_moe afmoe solar_open cohere2_moe mimo_v2_flash longcat_flash",
    _EXPERTS + " with latent attention": "deepseek deepseek_v2 deepseek_v3 deepseek_v32 kimi_k2 kimi_k25 glm_moe_dsa "
    "glm4_moe_lite",
    _STATE: "mamba mamba2 falcon_mamba jamba bamba zamba zamba2 falcon_h1 nemotron_h lfm2 lfm2_vl granitemoehybrid "
    "recurrent_gemma qwen3_next qwen3_5 qwen3_5_text qwen3_5_moe rwkv rwkv7 xlstm kimi_linear olmo_hybrid plamo2",
    _LAYER_NORM: "gpt2 gpt_neo gpt_neox gptj gpt_bigcode codegen opt bloom falcon mpt phi stablelm starcoder2 cohere "
    "cohere2 olmo nemotron persimmon xglm biogpt jais",
    _POST_NORM: "olmo2 olmo3 exaone4",
    "attention with latent keys": "minicpm3",
    "queries scaled by their position": "ministral3",
    "an activation other than SiLU and GELU": "apertus arcee",
    "layers that attend to images": "mllama mllama_text_model",
    "norms of queries and keys after their rotation": "hunyuan_v1_dense",
    "embeddings for every layer": "gemma3n gemma3n_text gemma4 gemma4_text",
    "differential attention": "diffllama",
    "weights of 1.58 bits": "bitnet",
    "an encoder and a decoder": "t5 mt5 umt5 bart mbart pegasus t5gemma",
    "an encoder": "bert roberta xlm-roberta deberta-v2 modernbert electra",
    _OWN_CODE: "baichuan chatglm internlm internlm2 internlm3 exaone qwen xverse minicpm orion deci aquila phi-msft",
}
REFUSED: dict[str, str] = {name: reason for reason, names in _REASONS.items() for name in names.split()}
"""Why architectures that are known by name cannot be read: what they have that the decoder does not."""
