"""Random models of every family in memory, with a character tokenizer: what engine tests run on."""

from __future__ import annotations

import json
import string
from typing import Any

import torch
from torch import Tensor

from branchwise.models.config import decoder_config
from branchwise.models.load import expected_shapes
from branchwise.text.tokenizer import Tokenizer

SPECIAL = ("<|im_start|>", "<|im_end|>", "<extra_0>")
CHARACTERS = string.printable[:95] + "\nки"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
FAMILY_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "rope_theta": 10000.0},
    "llama3": {
        "model_type": "llama",
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "mistral": {"model_type": "mistral", "rope_theta": 10000.0, "sliding_window": 48, "tie_word_embeddings": False},
    "qwen2": {"model_type": "qwen2", "rope_theta": 1000000.0},
    "qwen3": {"model_type": "qwen3", "rope_theta": 1000000.0, "head_dim": 32},
    "gemma3": {
        "model_type": "gemma3_text",
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "hidden_activation": "gelu_pytorch_tanh",
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
    },
}


class MemoryCheckpoint:
    """A checkpoint whose tensors are in memory."""

    def __init__(self, config: dict[str, Any], tensors: dict[str, Tensor], tokenizer: Tokenizer) -> None:
        self.source = f"memory:{config['model_type']}"
        self.config = config
        self.tensors = tensors
        self._tokenizer = tokenizer

    def names(self) -> set[str]:
        return set(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def load(self, name: str, dtype: torch.dtype) -> Tensor:
        return self.tensors[name].to(dtype, copy=True).contiguous()

    def load_rows(self, name: str, begin: int, end: int, dtype: torch.dtype) -> Tensor:
        return self.tensors[name][begin:end].to(dtype, copy=True)

    def block_format(self, name: str) -> None:
        return None

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer


def character_tokenizer(chat_template: str | None = CHATML) -> Tokenizer:
    """One token a character, plus ChatML's and the PRM's special tokens; `<|im_end|>` ends a sequence."""
    words = [*SPECIAL, *CHARACTERS]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    document = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": vocabulary[word], "content": word, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True,
            }
            for word in SPECIAL
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": " "},
    }  # fmt: skip
    config = {"eos_token": "<|im_end|>", "chat_template": chat_template}
    return Tokenizer.from_json(json.dumps(document), config)


def random_checkpoint(family: str = "llama", seed: int = 0, *, heads: str = "", **overrides: Any) -> MemoryCheckpoint:
    """Random weights of one family. `heads`: "mlp2", "value" or "labels" adds a PRM head."""
    config = {**SMALL, **FAMILY_CONFIGS[family], **overrides}
    shapes = expected_shapes(decoder_config(config, family))
    if config["tie_word_embeddings"]:
        shapes.pop("lm_head.weight")
    hidden = config["hidden_size"]
    if heads == "mlp2":
        shapes |= {"score.0.weight": (hidden, hidden), "score.0.bias": (hidden,)}
        shapes |= {"score.2.weight": (2, hidden), "score.2.bias": (2,)}
    if heads == "labels":
        shapes |= {"score.weight": (2, hidden), "score.bias": (2,)}
    if heads == "value":
        shapes |= {"v_head.summary.weight": (1, hidden), "v_head.summary.bias": (1,)}
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in sorted(shapes.items()):
        noise = torch.randn(shape, generator=generator)
        is_norm = name.endswith("norm.weight")
        centre = 0.0 if not is_norm or family == "gemma3" else 1.0
        tensors[name] = centre + noise * (0.1 if is_norm else 0.5 / shape[-1] ** 0.5 if len(shape) > 1 else 0.1)
        if name == "model.embed_tokens.weight":
            tensors[name] = 0.3 * noise  # tied with lm_head: logits of a few units
    return MemoryCheckpoint(config, tensors, character_tokenizer())
