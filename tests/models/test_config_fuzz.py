"""Damaged and hostile configs: every one loads, or is refused with one line that names the field. Nothing else."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from branchwise.errors import BranchwiseError, CheckpointError, ConfigError
from branchwise.models.config import decoder_config
from branchwise.weights import open_checkpoint
from checkpoints import random_checkpoint
from model_tools import all_logits, cpu_decoder

pytestmark = pytest.mark.filterwarnings("ignore:.*the context is:UserWarning")

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32, "mscale": 1.0}
LONGROPE = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen2", {"rope_scaling": YARN, "max_window_layers": 1, "use_sliding_window": True, "sliding_window": 9}),
    "llama3": ("llama3", {"rope_scaling": {"type": "dynamic", "factor": 2}, "layer_types": ["full_attention"] * 3}),
    "gemma3": ("gemma3", {"rope_parameters": {"full_attention": YARN, "sliding_attention": {"rope_type": "default"}}}),
    "mistral": ("mistral", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64}),
}
WRONG: list[Any] = [
    None, True, False, -1, 0, 1, 2, 7, 1.5, -0.0, 1e-300, 1e300, float("inf"), float("nan"), 10**30, 10**400, 2**31,
    1_000_000, "", "x", "1", "\ud800", "a\0b", [], [1], [None] * 3, ["x"] * 3, {}, {"a": 1}, [[[[1]]]],
    {"rope_type": "yarn"}, {"rope_type": 5}, {"type": "linear"}, {"type": [1]}, {"full_attention": 1},
]  # fmt: skip


@pytest.fixture(scope="module", params=BASES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, extra = BASES[request.param]
    checkpoint = random_checkpoint(family, seed=1)
    path = tmp_path_factory.mktemp(request.param)
    save_file(checkpoint.tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(checkpoint.config | extra))
    return path


def load(folder: Path) -> str:
    """ "": the model loads and runs; else the one line why not."""
    try:
        model = cpu_decoder(open_checkpoint(folder), torch.float32)
    except BranchwiseError as error:
        said = str(error)
    else:
        all_logits(model, list(range(3, 12))[: model.config.max_positions])
        return ""
    assert "\n" not in said
    assert len(said) < 1000
    return said


def mutants(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field removed, and replaced by everything that it might not be; nested ones, too."""
    for name, value in config.items():
        yield name, {key: other for key, other in config.items() if key != name}
        for wrong in WRONG:
            yield name, config | {name: wrong}
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", config | {name: mutant}) for inner, mutant in mutants(value))


@pytest.mark.parametrize("count", [150, pytest.param(None, marks=pytest.mark.slow)])
def test_every_field_of_every_wrong_kind(folder: Path, count: int | None) -> None:
    config = folder / "config.json"
    whole = config.read_text()
    every = list(mutants(json.loads(whole)))
    assert load(folder) == ""
    try:
        for name, mutant in every if count is None else random.Random(5).sample(every, count):
            config.write_text(json.dumps(mutant))
            begin = time.perf_counter()
            load(folder)
            assert time.perf_counter() - begin < 10, (name, str(mutant)[:200])
    finally:
        config.write_text(whole)


@pytest.mark.parametrize("count", [50, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_bytes(folder: Path, count: int) -> None:
    config = folder / "config.json"
    whole = config.read_bytes()
    chance = random.Random(count)
    try:
        for _ in range(count):
            data = bytearray(whole)
            for _ in range(chance.randint(1, 4)):
                data[chance.randrange(len(data))] = chance.choice([chance.randrange(256), *b'0123456789-+.eE"[]{},:'])
            config.write_bytes(data[: chance.randint(0, len(data))] if chance.random() < 0.1 else data)
            load(folder)
    finally:
        config.write_bytes(whole)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size", "64", r"config field 'hidden_size' is '64'; expected a positive integer"),
        ("hidden_size", 2**31, "expected a positive integer"),
        ("num_hidden_layers", 1_000_000, r"'num_hidden_layers' is 1000000; expected an integer from 1 to 1000"),
        ("num_key_value_heads", 3, r"expected a divisor of num_attention_heads, 4"),
        ("head_dim", 7, r"'head_dim' is 7; expected an even number"),
        ("rope_theta", [1], r"'rope_theta' is \[1\]; expected a number above 0"),
        ("rms_norm_eps", -1e-6, "expected a number above 0"),
        ("rms_norm_eps", float("nan"), "expected a number above 0"),
        ("tie_word_embeddings", "true", r"'tie_word_embeddings' is 'true'; expected true or false"),
        ("tie_word_embeddings", 1, "expected true or false"),
        ("hidden_act", "relu", r"'hidden_act' is 'relu'; expected one of silu, swish, gelu_pytorch_tanh"),
        ("hidden_act", ["silu"], "expected a string"),
        ("rope_scaling", {"type": "linear"}, r"'rope_scaling.factor' is None; expected a number above 0"),
        ("rope_scaling", {"rope_type": "magic"}, r"rope_type' is 'magic'; expected one of default, linear"),
        ("rope_scaling", {"type": "longrope"}, r"'rope_scaling.short_factor' is None; expected 8 positive numbers"),
        ("rope_scaling", {"type": "llama3", "factor": 8}, "'rope_scaling.low_freq_factor' is None"),
        ("rope_scaling", "linear", "expected an object"),
        ("model_type", None, r"'model_type' is 'None'; expected a name"),
        ("model_type", ["llama"], "expected a name"),
        ("model_type", "unheard_of", "architecture 'unheard_of' is not supported; branchwise runs ernie4_5, gemma"),
        ("model_type", "mixtral", "architecture 'mixtral' is not supported: a mixture of experts"),
        ("model_type", "deepseek_v3", "a mixture of experts with latent attention"),
        ("model_type", "falcon_mamba", "layers that are not attention"),
        ("model_type", "gpt2", "layer norms with a mean"),
        ("num_experts", 8, "mixtures of experts are not supported"),
        ("num_local_experts", 8, "mixtures of experts are not supported"),
        ("quantization_config", {"quant_method": "gptq"}, "take the unquantised model, or a GGUF file"),
        ("sliding_window", 4096, "'sliding_window' is 4096; expected no such field in a llama decoder"),
        ("attn_logit_softcapping", 50.0, "expected no such field in a llama decoder"),
        ("attention_multiplier", 0.1, "expected no such field"),
        ("query_pre_attn_scalar", 100, "expected no such field"),
        ("partial_rotary_factor", 0.5, "1: this architecture rotates whole heads"),
        ("no_rope_layers", [1, 0, 1], "expected no such field"),
        ("layer_types", ["full_attention", "linear_attention"], "expected no such field"),
        ("position_embedding_type", "alibi", "expected no such field"),
        ("scale_emb", 12, "expected no such field"),
        ("use_qk_norm", True, "expected no such field"),
        ("attn_temperature_tuning", True, "expected no such field"),
        ("use_bidirectional_attention", True, "expected no such field"),
    ],
)  # fmt: skip
def test_what_is_said(field: str, value: Any, message: str) -> None:
    config = random_checkpoint("llama").config
    with pytest.raises(CheckpointError, match=message):
        decoder_config(config | {field: value}, "x")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_cache", False), ("torch_dtype", "bfloat16"), ("pretraining_tp", 2), ("attention_dropout", 0.1),
        ("mlp_bias", False), ("sliding_window", None), ("num_experts", 0), ("attn_logit_softcapping", None),
        ("residual_dropout", 0.1), ("use_sliding_window", False), ("max_window_layers", 28), ("unsloth_version", "1"),
        ("layer_types", ["full_attention"] * 3), ("partial_rotary_factor", 1.0), ("router_aux_loss_coef", 0.001),
        ("rope_scaling", {"type": "linear", "factor": 2.0, "who_knows": [1]}), ("rope_scaling", {}),
        ("rope_theta", None), ("head_dim", None), ("num_key_value_heads", None), ("max_position_embeddings", 2**31 - 1),
    ],
)  # fmt: skip
def test_what_does_not_matter(field: str, value: Any) -> None:
    decoder_config(random_checkpoint("llama").config | {field: value}, "x")


def test_a_million_layers_take_neither_time_nor_memory(folder: Path) -> None:
    config = folder / "config.json"
    whole = config.read_text()
    begin = time.perf_counter()
    try:
        for layers, message in ((1_000_000, "from 1 to 1000"), (1000, "tensors are missing")):
            config.write_text(json.dumps(json.loads(whole) | {"num_hidden_layers": layers, "layer_types": None}))
            assert message in load(folder)
    finally:
        config.write_text(whole)
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize("size", [2, 4, 12, 22, 520, 1024])
def test_heads_that_the_kernels_cannot_take(size: int) -> None:
    with pytest.raises(ConfigError, match=f"heads of {size} dimensions: the kernels take multiples of 8 up to 512"):
        cpu_decoder(random_checkpoint("llama", head_dim=size), torch.float32)
