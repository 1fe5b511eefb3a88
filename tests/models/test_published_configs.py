"""Configs as the most used models publish them: read for what they are, and nothing in them is taken for a trap."""

from __future__ import annotations

from typing import Any

import pytest

from branchwise.errors import CheckpointError
from branchwise.models.config import DecoderConfig, decoder_config
from branchwise.weights.text_part import text_config

LLAMA3 = {
    "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}  # fmt: skip
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 3584,
    "initializer_range": 0.02, "intermediate_size": 18944, "max_position_embeddings": 131072, "max_window_layers": 28,
    "model_type": "qwen2", "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6, "rope_theta": 10000, "sliding_window": 4096, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "use_cache": True, "use_mrope": False, "use_sliding_window": False, "vocab_size": 152064,
}  # fmt: skip
PHI3 = {
    "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "embd_pdrop": 0.0,
    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "hidden_act": "silu", "hidden_size": 3072,
    "intermediate_size": 8192, "model_type": "phi3", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 32, "original_max_position_embeddings": 4096, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0, "tie_word_embeddings": False, "vocab_size": 32064,
}  # fmt: skip
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Llama 3.1 8B": (
        {
            "architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": 128000, "mlp_bias": False,
            "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 131072,
            "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
            "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": LLAMA3, "rope_theta": 500000.0,
            "tie_word_embeddings": False, "vocab_size": 128256,
        },
        {"max_positions": 131072, "head_dim": 128, "n_kv_heads": 8},
    ),
    "R1 distil, Qwen": (QWEN2, {"max_positions": 131072, "windows": (0,) * 28, "qkv_bias": True, "output_bias": False}),
    "Mistral 7B v0.1": (
        {
            "architectures": ["MistralForCausalLM"], "hidden_act": "silu", "hidden_size": 4096,
            "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False, "vocab_size": 32000,
        },
        {"windows": (4096,) * 32, "max_positions": 32768},
    ),
    "Gemma 3 4B": (
        {
            "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999, "eoi_token_index": 256000,
            "eos_token_id": [1, 106], "image_token_index": 262144, "mm_tokens_per_image": 256, "model_type": "gemma3",
            "text_config": {
                "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
            },
            "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model", "num_hidden_layers": 27},
        },
        {
            "n_heads": 8, "n_kv_heads": 4, "head_dim": 256, "vocab_size": 262208, "tied": True, "max_positions": 131072,
            "scale": 256**-0.5, "activation": "gelu_tanh",
        },
    ),
    "Gemma 2 2B": (
        {
            "architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "attn_logit_softcapping": 50.0,
            "cache_implementation": "hybrid", "final_logit_softcapping": 30.0, "head_dim": 256,
            "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304,
            "intermediate_size": 9216, "max_position_embeddings": 8192, "model_type": "gemma2",
            "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4, "query_pre_attn_scalar": 256,
            "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096, "vocab_size": 256000,
        },
        {"windows": (4096, 0) * 13, "attention_softcap": 50.0, "final_softcap": 30.0, "tied": True},
    ),
    "Phi-3 mini 4k": (
        PHI3 | {"max_position_embeddings": 4096, "rope_scaling": None, "sliding_window": 2047},
        {"windows": (2047,) * 32, "max_positions": 4096, "head_dim": 96},
    ),
    "Phi-3.5 mini": (
        PHI3 | {
            "max_position_embeddings": 131072, "sliding_window": 262144,
            "rope_scaling": {"long_factor": [2.0] * 48, "short_factor": [1.0] * 48, "type": "longrope"},
        },
        {"max_positions": 4096},
    ),
    "Phi-4 mini": (
        PHI3 | {
            "max_position_embeddings": 131072, "sliding_window": 262144, "partial_rotary_factor": 0.75,
            "num_attention_heads": 24, "num_key_value_heads": 8, "full_attn_mod": 1, "interpolate_factor": 1,
            "lm_head_bias": False, "mlp_bias": False, "tie_word_embeddings": True, "vocab_size": 200064,
            "rope_scaling": {"long_factor": [2.0] * 48, "short_factor": [1.0] * 48, "type": "longrope"},
        },
        {"head_dim": 128, "rotary_width": 96, "max_positions": 4096},
    ),
    "Granite 3.3 2B": (
        {
            "architectures": ["GraniteForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
            "attention_multiplier": 0.015625, "embedding_multiplier": 12.0, "hidden_act": "silu", "hidden_size": 2048,
            "intermediate_size": 8192, "logits_scaling": 8.0, "max_position_embeddings": 131072, "mlp_bias": False,
            "model_type": "granite", "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8,
            "residual_multiplier": 0.22, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000000.0,
            "tie_word_embeddings": True, "vocab_size": 49159,
        },
        {"scale": 0.015625, "logit_divisor": 8.0, "embedding_scale": 12.0 / 0.22, "eps": 1e-05 / 0.22**2},
    ),
    "SmolLM3 3B": (
        {
            "architectures": ["SmolLM3ForCausalLM"], "attention_bias": False, "hidden_act": "silu",
            "hidden_size": 2048, "intermediate_size": 11008, "layer_types": ["full_attention"] * 36,
            "max_position_embeddings": 65536, "max_window_layers": 28, "mlp_bias": False, "model_type": "smollm3",
            "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0] * 9, "num_attention_heads": 16,
            "num_hidden_layers": 36, "num_key_value_heads": 4, "pretraining_tp": 2, "rms_norm_eps": 1e-06,
            "rope_scaling": None, "rope_theta": 5000000.0, "sliding_window": None, "use_sliding_window": False,
            "vocab_size": 128256,
        },
        {"rope_of": (0, 0, 0, 1) * 9, "tied": True},
    ),
    "Qwen2.5-VL 3B": (
        QWEN2 | {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl",
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "rope_theta": 1000000.0,
            "vision_config": {"depth": 32}, "vision_start_token_id": 151652, "video_token_id": 151656,
        },
        {"max_positions": 131072, "head_dim": 128},
    ),
    "Qwen 2.5 with YaRN": (
        QWEN2 | {"rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}},
        {"max_positions": 131072},
    ),
    "Mistral Small 3.1": (
        {
            "architectures": ["Mistral3ForConditionalGeneration"], "image_token_index": 10, "model_type": "mistral3",
            "multimodal_projector_bias": False, "projector_hidden_act": "gelu", "spatial_merge_size": 2,
            "text_config": {
                "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120,
                "intermediate_size": 32768, "max_position_embeddings": 131072, "model_type": "mistral",
                "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
                "rope_theta": 1000000000.0, "sliding_window": None, "vocab_size": 131072,
            },
            "vision_config": {"model_type": "pixtral"}, "vision_feature_layer": -1,
        },
        {"head_dim": 128, "windows": (0,) * 40},
    ),
    "LLaVA 1.5 7B": (
        {
            "architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100, "image_token_index": 32000,
            "model_type": "llava", "projector_hidden_act": "gelu", "tie_word_embeddings": False,
            "text_config": {"max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "vocab_size": 32064},
            "vision_config": {"model_type": "clip_vision_model"}, "vision_feature_layer": -2, "vocab_size": 32064,
        },
        {"hidden_size": 4096, "n_layers": 32, "n_kv_heads": 32, "max_positions": 4096, "vocab_size": 32064},
    ),
}  # fmt: skip


def read(config: dict[str, Any]) -> DecoderConfig:
    return decoder_config(text_config(config, "x"), "x")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config(name: str) -> None:
    config, expected = PUBLISHED[name]
    given = read(config)
    for field, value in expected.items():
        assert getattr(given, field) == value, field


@pytest.mark.parametrize(
    ("name", "experts"),
    [
        ("mixtral", {"num_local_experts": 8}), ("qwen3_moe", {"num_experts": 128}), ("gpt_oss", {}),
        ("deepseek_v3", {"n_routed_experts": 256}), ("llama4", {}), ("qwen2", {"num_experts": 60}),
    ],
)  # fmt: skip
def test_a_mixture_of_experts_is_one_line(name: str, experts: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"(?i)mixtures? of experts") as caught:
        read(QWEN2 | {"model_type": name} | experts)
    assert "\n" not in str(caught.value)
