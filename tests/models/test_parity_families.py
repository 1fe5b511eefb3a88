"""Every family and every rule of RoPE, from a folder as transformers writes it: 64 greedy tokens are transformers'."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from branchwise.models.config import decoder_config
from branchwise.models.families import ALIASES, FAMILIES
from branchwise.weights import open_checkpoint
from model_tools import all_logits, cpu_decoder

transformers = pytest.importorskip("transformers", reason="transformers is the oracle of this test")

LOGIT_TOLERANCE = 1e-3
PROMPT = [5, 17, 3, 88, 41, 17, 60, 9]
TINY: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": None,
    "pad_token_id": 0,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.7, 2.0, 2.5, 3.0, 4.0],
    "long_factor": [2.0, 3.0, 4.0, 6.0, 8.0, 9.0, 11.0, 16.0],
}  # fmt: skip
LONG_AFTER_100 = LONGROPE | {"original_max_position_embeddings": 100}
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip

CASES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama, biases": {"model_type": "llama", "attention_bias": True},
    "llama, GELU": {"model_type": "llama", "hidden_act": "gelu_pytorch_tanh"},
    "mistral, window": {"model_type": "mistral", "sliding_window": 24},
    "ministral, some windows": {
        "model_type": "ministral", "sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2, window": {
        "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "qwen3, biases": {"model_type": "qwen3", "attention_bias": True},
    "gemma": {"model_type": "gemma"},
    "gemma2": {"model_type": "gemma2", "sliding_window": 24, "query_pre_attn_scalar": 24},
    "gemma2, caps": {"model_type": "gemma2", "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3": {"model_type": "gemma3_text", "sliding_window": 24, "query_pre_attn_scalar": 24, "num_hidden_layers": 7},
    "gemma3, 4B and on": {
        "model_type": "gemma3_text", "sliding_window": 24, "num_hidden_layers": 7,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "phi3": {"model_type": "phi3"},
    "phi3, window": {"model_type": "phi3", "sliding_window": 24},
    "phi3, longrope": {
        "model_type": "phi3", "max_position_embeddings": 1024, "original_max_position_embeddings": 128,
        "rope_scaling": LONGROPE,
    },
    "phi4-mini": {
        "model_type": "phi3", "partial_rotary_factor": 0.75, "tie_word_embeddings": True,
        "max_position_embeddings": 1024, "original_max_position_embeddings": 128,
        "rope_scaling": LONGROPE | {"short_factor": [1.0, 1.1, 1.3, 1.7, 2.0, 2.5], "long_factor": [2.0] * 6},
    },
    "granite": {
        "model_type": "granite", "embedding_multiplier": 12.0, "residual_multiplier": 0.22,
        "attention_multiplier": 0.0625, "logits_scaling": 2.0, "tie_word_embeddings": True,
    },
    "granite, biases": {"model_type": "granite", "attention_bias": True, "attention_multiplier": 0.2},
    "smollm3": {"model_type": "smollm3"},
    "smollm3, by list": {"model_type": "smollm3", "no_rope_layers": [0, 1, 1, 0]},
    "smollm3, window": {"model_type": "smollm3", "use_sliding_window": True, "sliding_window": 24},
    "glm": {"model_type": "glm"},
    "glm4": {"model_type": "glm4", "attention_bias": False},
    "ernie4_5": {"model_type": "ernie4_5", "tie_word_embeddings": True},
    "seed_oss": {"model_type": "seed_oss"},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 3.0}},
    "llama3": {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 64}, "rope_theta": 500000.0},
    "llama3, silent": {"rope_scaling": LLAMA3},
    "yarn": {"rope_scaling": YARN},
    "yarn, silent": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "yarn, both names": {"rope_scaling": YARN | {"type": "linear", "unknown": 7, "finetuned": True}},
    "yarn, old name": {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    "yarn, new place": {"rope_parameters": YARN | {"rope_theta": 1e6}},
    "yarn, no factor": {"rope_scaling": YARN | {"factor": None}},
    "yarn, attention": {"rope_scaling": YARN | {"attention_factor": 0.7}},
    "yarn, mscale": {"rope_scaling": YARN | {"mscale": 1.3, "mscale_all_dim": 0.4}},
    "yarn, half an mscale": {"rope_scaling": YARN | {"mscale": 1.3}},
    "yarn, betas": {"rope_scaling": YARN | {"beta_fast": 8, "beta_slow": 0.5}},
    "yarn, not truncated": {"rope_scaling": YARN | {"truncate": False}},
    "yarn, qwen2": {"model_type": "qwen2", "rope_scaling": YARN, "rope_theta": 1e6},
    "yarn, qwen3": {"model_type": "qwen3", "rope_scaling": YARN, "rope_theta": 1e6},
    "longrope": {"rope_scaling": LONG_AFTER_100},
    "longrope, factor": {"rope_scaling": LONG_AFTER_100 | {"factor": 3.0}},
    "longrope, attention": {"rope_scaling": LONG_AFTER_100 | {"attention_factor": 1.3}},
    "longrope, beside": {"rope_scaling": LONGROPE, "original_max_position_embeddings": 100},
    "gemma3, by kind": {
        "model_type": "gemma3_text", "sliding_window": 24, "num_hidden_layers": 7,
        "rope_parameters": {
            "full_attention": YARN | {"rope_theta": 1e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
        },
    },
}  # fmt: skip
WITH_TOWERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "Gemma3": ("Gemma3ForConditionalGeneration", CASES["gemma3, 4B and on"], {"mm_tokens_per_image": 4}),
    "Llava": ("LlavaForConditionalGeneration", {"model_type": "llama"}, {}),
    "Llava of Mistral": ("LlavaForConditionalGeneration", {"model_type": "mistral", "sliding_window": None}, {}),
    "LlavaNext": ("LlavaNextForConditionalGeneration", {"model_type": "qwen2"}, {}),
    "Mistral3": ("Mistral3ForConditionalGeneration", {"model_type": "mistral"}, {}),
    "SmolVLM": ("SmolVLMForConditionalGeneration", {"model_type": "llama"}, {"scale_factor": 1}),
    "Qwen2VL": (
        "Qwen2VLForConditionalGeneration",
        {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "tie_word_embeddings": True}, {},
    ),
    "Qwen2.5VL": (
        "Qwen2_5_VLForConditionalGeneration", {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}, {},
    ),
    "Qwen3VL": (
        "Qwen3VLForConditionalGeneration",
        {"rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [4, 2, 2]}}, {},
    ),
}  # fmt: skip


def randomised(model: Any) -> Any:
    """Weights that make every part of the model matter."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.5 / math.sqrt(parameter.shape[-1]))
            else:
                parameter.normal_(0.0 if "gemma" in model.config.model_type or "bias" in name else 1.0, 0.2)
    return model.eval()


def assert_parity(model: Any, folder: Path, greedy: bool) -> None:
    """Logits after 72 tokens are transformers'. Where `greedy`, 64 of them are those that it generates one by one."""
    model.save_pretrained(folder)
    ids = torch.tensor([PROMPT + torch.randint(3, 90, (64,), generator=torch.Generator().manual_seed(7)).tolist()])
    with torch.no_grad():
        if greedy:
            ids = torch.tensor([PROMPT])
            ids = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False)
        expected = model(ids).logits[0]
    tokens = ids[0].tolist()
    assert len(tokens) == len(PROMPT) + 64
    given = all_logits(cpu_decoder(open_checkpoint(folder), torch.float32), tokens, chunk=50)
    assert (given - expected).abs().max() <= LOGIT_TOLERANCE
    assert torch.equal(given.argmax(1), expected.argmax(1))
    if greedy:
        assert given.argmax(1)[len(PROMPT) - 1 : -1].tolist() == tokens[len(PROMPT) :]


@pytest.mark.filterwarnings("ignore:.*the context is 1:UserWarning")
@pytest.mark.parametrize("greedy", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES)
def test_family_equals_transformers(case: str, greedy: bool, tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model(**{"model_type": "llama", **TINY, **CASES[case]})
    config._attn_implementation = "eager"
    assert_parity(randomised(transformers.AutoModelForCausalLM.from_config(config).float()), tmp_path, greedy)


@pytest.mark.parametrize("greedy", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", WITH_TOWERS)
def test_text_of_a_model_that_sees(case: str, greedy: bool, tmp_path: Path) -> None:
    name, text, whole = WITH_TOWERS[case]
    kind = getattr(transformers, name)
    config = kind.config_class(text_config=TINY | text, vision_config=VISION, **whole)
    config._attn_implementation = "eager"
    assert_parity(randomised(kind._from_config(config).float()), tmp_path, greedy)


def test_every_family_is_tried() -> None:
    tried = {case.get("model_type", "llama") for case in CASES.values()}
    assert set(FAMILIES) - {ALIASES.get(name, name) for name in tried} == {"qwen2_vl", "qwen3_vl_text"}  # with towers


@pytest.mark.parametrize("name", [*FAMILIES, *ALIASES])
def test_a_silent_config_means_what_transformers_takes_it_for(name: str) -> None:
    known = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    whole = known[name]()
    silent = whole.get_text_config()
    ours = decoder_config({"model_type": name}, name)
    for field, given in (
        ("vocab_size", ours.vocab_size), ("hidden_size", ours.hidden_size), ("num_hidden_layers", ours.n_layers),
        ("intermediate_size", ours.intermediate_size), ("num_attention_heads", ours.n_heads),
        ("num_key_value_heads", ours.n_kv_heads), ("max_position_embeddings", ours.max_positions),
        ("rms_norm_eps", ours.eps),
    ):  # fmt: skip
        assert given == getattr(silent, field), field
    assert ours.head_dim == (getattr(silent, "head_dim", None) or silent.hidden_size // silent.num_attention_heads)
    assert ours.tied == getattr(silent, "tie_word_embeddings", getattr(whole, "tie_word_embeddings", ours.tied))
