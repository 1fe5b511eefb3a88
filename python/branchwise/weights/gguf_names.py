"""The Hugging Face name of every tensor that a GGUF file of a known architecture may hold."""

from __future__ import annotations

import re

_GLOBAL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

# Gemma 2 and 3 have norms on both sides of attention and of the MLP, so the same GGUF name means another norm there.
_PRE_NORM = {"ffn_norm": "post_attention_layernorm"}
_SANDWICH_NORM = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}

_PATTERN = re.compile(r"blk\.(0|[1-9]\d{0,3})\.(\w+)\.(weight|bias)")

_FUSED_MLP = {"ffn_up": "mlp.gate_up_proj"}


def hf_name(gguf_name: str, architecture: str) -> str | None:
    """The Hugging Face name of a GGUF tensor of this architecture (`general.architecture`), or None if unknown."""
    if gguf_name in _GLOBAL:
        return _GLOBAL[gguf_name]
    if not (match := _PATTERN.fullmatch(gguf_name)):
        return None
    layer, part, kind = match.groups()
    table = _LAYER | (_SANDWICH_NORM if architecture in ("gemma2", "gemma3") else _PRE_NORM)
    table |= _FUSED_MLP if architecture == "phi3" else {}
    return f"model.layers.{layer}.{table[part]}.{kind}" if part in table else None
