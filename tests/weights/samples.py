"""Small models for the weight tests: tiny Hugging Face models, and GGUF files as the converter writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

COMMON = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}

MODELS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**COMMON)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**COMMON | {"tie_word_embeddings": True})),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**COMMON, head_dim=32)),
    "gemma": lambda: transformers.GemmaForCausalLM(
        transformers.GemmaConfig(**COMMON | {"tie_word_embeddings": True}, head_dim=32)
    ),
    "gemma2": lambda: transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(
            **COMMON | {"tie_word_embeddings": True}, head_dim=32, sliding_window=16, query_pre_attn_scalar=32
        )
    ),
    "phi3": lambda: transformers.Phi3ForCausalLM(
        transformers.Phi3Config(**COMMON, partial_rotary_factor=0.75, sliding_window=16, pad_token_id=0)
    ),
    "granite": lambda: transformers.GraniteForCausalLM(
        transformers.GraniteConfig(
            **COMMON,
            embedding_multiplier=12.0,
            residual_multiplier=0.25,
            attention_multiplier=0.125,
            logits_scaling=4.0,
        )
    ),
    "smollm3": lambda: transformers.SmolLM3ForCausalLM(
        transformers.SmolLM3Config(**COMMON | {"num_hidden_layers": 4}, pad_token_id=0)
    ),
    "gemma3": lambda: transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(
            **COMMON | {"tie_word_embeddings": True}, head_dim=32, sliding_window=16, query_pre_attn_scalar=32
        )
    ),
}

_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
}


def tiny_model(architecture: str) -> Any:
    """A random two-layer model of this architecture, every weight and norm different."""
    torch.manual_seed(1)
    model = MODELS[architecture]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2)
    return model


def stored_weights(model: Any) -> dict[str, torch.Tensor]:
    """The tensors that a checkpoint of this model holds: a tied head is not stored."""
    weights = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    return weights


def write_gguf(path: Path, architecture: str, model: Any, **extra: Any) -> Path:
    """Write a model as llama.cpp's converter does: its names, llama's rows of q and k reordered, Gemma's norms + 1.

    extra: metadata, and `tensors` to add; `kind_of`: type by Hugging Face name, None for fp32
    """
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(extra.pop("rope_theta", 50000.0))
    if head_dim != config.hidden_size // config.num_attention_heads:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    _add_own(writer, architecture, config)
    writer.add_token_list([f"t{i}" for i in range(config.vocab_size)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    tensors, kind_of = extra.pop("tensors", {}), extra.pop("kind_of", lambda name: None)
    for key, value in extra.items():
        writer.add_key_value(key.replace("__", "."), value, _value_type(value))
    for name, weight in stored_weights(model).items():
        array, kind = _converted(name, weight, architecture, config), kind_of(name)
        if kind is not None:
            array = gguf.quants.quantize(array, kind)
        writer.add_tensor(_gguf_name(name, architecture), array, raw_dtype=kind)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    return finish(writer, path)


def _add_own(writer: gguf.GGUFWriter, architecture: str, config: Any) -> None:
    """Metadata that only some architectures have."""
    if architecture in ("gemma2", "gemma3", "phi3"):
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if architecture == "phi3":
        writer.add_rope_dimension_count(12)  # three quarters of a head of 16
    if architecture == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)


def finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    """Write everything that was added and close the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _value_type(value: Any) -> gguf.GGUFValueType:
    kinds = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING", list: "ARRAY"}
    return gguf.GGUFValueType[kinds[type(value)]]


def _gguf_name(name: str, architecture: str) -> str:
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem, kind = name.rsplit(".", 1)
    if stem in top:
        return f"{top[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    sandwich = {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    }
    norms = sandwich if architecture in ("gemma2", "gemma3") else {"post_attention_layernorm": "ffn_norm"}
    return f"blk.{layer}.{(_PARTS | norms)[part]}.{kind}"


def _converted(name: str, weight: torch.Tensor, architecture: str, config: Any) -> np.ndarray:
    array = weight.float().numpy()
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return array + np.float32(1)
    if architecture in ("llama", "granite", "smollm3") and ("q_proj" in name or "k_proj" in name):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        rows = len(array) // heads
        # Row `half * (rows / 2) + i` of a head becomes its row `2 * i + half`.
        head_order = [half * (rows // 2) + i for i in range(rows // 2) for half in (0, 1)]
        return array[[head * rows + row for head in range(heads) for row in head_order]]
    return array
