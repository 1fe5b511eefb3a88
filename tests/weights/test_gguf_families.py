"""GGUF files of every architecture and rule of RoPE: what they compute is what the model that they came from does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from branchwise.weights import open_checkpoint
from branchwise.weights.gguf_rope import llama3_divisors
from model_tools import all_logits, cpu_decoder
from weights.samples import COMMON, MODELS, tiny_model, write_gguf

TOKENS = torch.randint(3, 90, (70,), generator=torch.Generator().manual_seed(7)).tolist()
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
SHORT, LONG = [1.0, 1.125, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0], [2.0, 3.0, 4.0, 6.0, 8.0, 9.0, 11.0, 16.0]


def assert_same(model: Any, path: Path) -> None:
    with torch.no_grad():
        expected = model.float().eval()(torch.tensor([TOKENS])).logits[0]
    given = all_logits(cpu_decoder(open_checkpoint(path), torch.float32), TOKENS)
    assert (given - expected).abs().max() <= 1e-3 * max(1.0, float(expected.abs().max()) / 10)
    assert torch.equal(given.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("architecture", MODELS)
def test_it_computes_what_the_model_does(architecture: str, tmp_path: Path) -> None:
    model = tiny_model(architecture)
    theta = {"gemma3": 1e6, "smollm3": 2e6}.get(architecture, 10000.0)
    assert_same(model, write_gguf(tmp_path / "m.gguf", architecture, model, rope_theta=theta))


@pytest.mark.parametrize(("name", "like"), [("qwen2vl", "qwen2"), ("qwen3vl", "qwen3")])
def test_the_text_part_of_a_model_that_sees(name: str, like: str, tmp_path: Path) -> None:
    model = tiny_model(like)
    sections = {f"{name}__rope__dimension_sections": [2, 3, 3, 0]}
    assert_same(model, write_gguf(tmp_path / "m.gguf", name, model, rope_theta=10000.0, **sections))


RULES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "linear": ({"rope_type": "linear", "factor": 4.0}, {"type": "linear", "factor": 4.0}),
    "linear, early files": ({"rope_type": "linear", "factor": 4.0}, {"": 4.0}),
    "yarn": (
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        {"type": "yarn", "factor": 4.0, "original_context_length": 32},
    ),
    "yarn, sharper": (
        {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 8.0,
            "attention_factor": 1.25 * (0.1 * math.log(4) + 1),
        },
        {
            "type": "yarn", "factor": 4.0, "original_context_length": 32, "attn_factor": 1.25, "yarn_beta_fast": 8.0,
            "finetuned": True,
        },
    ),
    "llama3": (LLAMA3, {"tensors": {"rope_freqs.weight": llama3_divisors(16, 10000.0, LLAMA3).astype(np.float32)}}),
    "longrope": (
        {
            "rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "attention_factor": 1.25,
            "original_max_position_embeddings": 100,
        },
        {
            "attn_factor": 1.25, "original_context_length": 100,
            "tensors": {
                "rope_factors_short.weight": np.array(SHORT, np.float32),
                "rope_factors_long.weight": np.array(LONG, np.float32),
            },
        },
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*the context is 100:UserWarning")
@pytest.mark.parametrize("rule", RULES)
def test_rules_of_rope(rule: str, tmp_path: Path) -> None:
    parameters, metadata = RULES[rule]
    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**COMMON, rope_scaling=dict(parameters)))
    keys = {name: f"llama__rope__scaling__{name}" for name in metadata} | {"": "llama__rope__scale_linear"}
    extra = {name if name == "tensors" else keys[name]: value for name, value in metadata.items()}
    assert_same(model, write_gguf(tmp_path / "m.gguf", "llama", model, rope_theta=10000.0, **extra))


def test_phi3_with_half_its_context(tmp_path: Path) -> None:
    torch.manual_seed(1)
    short, long = SHORT[:6], LONG[:6]
    model = transformers.Phi3ForCausalLM(
        transformers.Phi3Config(
            **COMMON, partial_rotary_factor=0.75, original_max_position_embeddings=256, sliding_window=400,
            pad_token_id=0, rope_scaling={"rope_type": "longrope", "short_factor": short, "long_factor": long},
        )
    )  # fmt: skip
    path = write_gguf(
        tmp_path / "m.gguf", "phi3", model, rope_theta=10000.0, phi3__rope__scaling__original_context_length=256,
        phi3__rope__scaling__attn_factor=math.sqrt(1 + math.log(2) / math.log(256)),
        tensors={
            "rope_factors_short.weight": np.array(short, np.float32),
            "rope_factors_long.weight": np.array(long, np.float32),
        },
    )  # fmt: skip
    with pytest.warns(UserWarning, match="the context is 256 tokens, not 512"):
        assert_same(model, path)
