"""GGUF files of each architecture, written as the converter writes them, against the models they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from branchwise.errors import CheckpointError
from branchwise.weights import open_checkpoint
from branchwise.weights.gguf_rope import llama3_divisors
from weights.samples import MODELS, stored_weights, tiny_model, write_gguf

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize("architecture", MODELS)
def test_every_tensor_comes_back(architecture: str, tmp_path: Path) -> None:
    model = tiny_model(architecture)
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", architecture, model))
    weights = stored_weights(model)
    assert checkpoint.names() == set(weights)
    for name, weight in weights.items():
        loaded = checkpoint.load(name, torch.float32)
        assert checkpoint.shape(name) == tuple(loaded.shape) == tuple(weight.shape)
        assert loaded.is_contiguous()
        if architecture.startswith("gemma") and name.endswith("norm.weight"):  # w + 1 was rounded to fp32
            torch.testing.assert_close(loaded, weight, rtol=0, atol=2**-23)
        else:
            assert torch.equal(loaded, weight), name
        assert checkpoint.load(name, torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("architecture", MODELS)
def test_config_matches_the_model(architecture: str, tmp_path: Path) -> None:
    model = tiny_model(architecture)
    config = open_checkpoint(write_gguf(tmp_path / "m.gguf", architecture, model, rope_theta=50000.0)).config
    known = model.config
    assert config["architectures"] == [type(model).__name__]
    for key in (
        "model_type",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
    ):
        assert config[key] == getattr(known, key), key
    assert config["head_dim"] == (32 if architecture in ("qwen3", "gemma", "gemma2", "gemma3") else 16)
    assert config["attention_bias"] == (architecture == "qwen2")
    assert (config["rope_theta"], config["rope_scaling"]) == (50000.0, None)
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)


def gemma(tmp_path: Path, **extra: Any) -> dict[str, Any]:
    return open_checkpoint(write_gguf(tmp_path / "m.gguf", "gemma3", tiny_model("gemma3"), **extra)).config


def test_gemma3_config(tmp_path: Path) -> None:
    config = gemma(tmp_path)
    assert config["hidden_activation"] == "gelu_pytorch_tanh"
    assert config["sliding_window"] == 16
    assert config["layer_types"] == ["sliding_attention"] * 2
    assert config["query_pre_attn_scalar"] == 32
    assert config["rope_local_base_freq"] == 10000.0
    mixed = ["sliding_attention", "full_attention"]
    assert gemma(tmp_path, gemma3__attention__sliding_window_pattern=2)["layer_types"] == mixed
    assert gemma(tmp_path, gemma3__attention__sliding_window_pattern=[True, False])["layer_types"] == mixed
    assert gemma(tmp_path, gemma3__rope__freq_base_swa=20000.0)["rope_local_base_freq"] == 20000.0


def test_gemma3_27b_scales_attention_by_the_hidden_size(tmp_path: Path) -> None:
    model = tiny_model("gemma3")
    model.config.num_hidden_layers = 62
    tensors = {f"blk.{i}.attn_norm.weight": np.ones(64, np.float32) for i in range(2, 62)}
    config = open_checkpoint(write_gguf(tmp_path / "m.gguf", "gemma3", model, tensors=tensors)).config
    assert config["query_pre_attn_scalar"] == 64 // 4
    assert [i for i, kind in enumerate(config["layer_types"]) if kind == "full_attention"] == list(range(5, 62, 6))


def llama(tmp_path: Path, **extra: Any) -> dict[str, Any]:
    return open_checkpoint(write_gguf(tmp_path / "m.gguf", "llama", tiny_model("llama"), **extra)).config


def test_mistral_is_llama_with_a_window(tmp_path: Path) -> None:
    config = llama(tmp_path, llama__attention__sliding_window=128)
    assert config["architectures"] == ["MistralForCausalLM"]
    assert (config["model_type"], config["sliding_window"]) == ("mistral", 128)


def test_end_of_turn_is_a_second_end(tmp_path: Path) -> None:
    assert llama(tmp_path, tokenizer__ggml__eot_token_id=5)["eos_token_id"] == [2, 5]
    assert llama(tmp_path, tokenizer__ggml__eot_token_id=2)["eos_token_id"] == 2


def test_rope_scaling_from_metadata(tmp_path: Path) -> None:
    linear = llama(tmp_path, llama__rope__scaling__type="linear", llama__rope__scaling__factor=8.0)
    assert linear["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    yarn = {"type": "yarn", "factor": 4.0, "original_context_length": 32768}
    config = llama(tmp_path, **{f"llama__rope__scaling__{key}": value for key, value in yarn.items()})
    expected = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert config["rope_scaling"] == expected
    assert llama(tmp_path, llama__rope__scaling__type="none")["rope_scaling"] is None


def test_llama3_divisors_match_transformers() -> None:
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=2048,
        num_attention_heads=32,
        max_position_embeddings=131072,
        rope_parameters=LLAMA3 | {"rope_theta": 500000.0},
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500000.0 ** -(torch.arange(0, 64, 2) / 64)
    divisors = llama3_divisors(64, 500000.0, LLAMA3)
    np.testing.assert_allclose((plain / scaled).numpy(), divisors, rtol=1e-5)
    assert divisors[0] == 1.0
    assert divisors[-1] == 32.0


def test_llama3_scaling_is_recovered_from_its_divisors(tmp_path: Path) -> None:
    divisors = llama3_divisors(16, 500000.0, LLAMA3).astype(np.float32)
    path = write_gguf(
        tmp_path / "m.gguf", "llama", tiny_model("llama"), rope_theta=500000.0, tensors={"rope_freqs.weight": divisors}
    )
    checkpoint = open_checkpoint(path)
    assert checkpoint.config["rope_scaling"] == LLAMA3
    assert "rope_freqs.weight" not in checkpoint.names()
    for wrong, message in ((divisors * 1.01, "does not follow Llama 3"), (divisors[:4], "expected half a head")):
        with pytest.raises(CheckpointError, match=message):
            llama(tmp_path, rope_theta=500000.0, tensors={"rope_freqs.weight": wrong})


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "experts": ({"llama__expert_count": 8}, "llama.expert_count = 8 is not supported: a mixture of experts"),
    "logit scale": ({"llama__logit_scale": 0.5}, "llama.logit_scale = 0.5 is not supported"),
    "partial rotary": ({"llama__rope__dimension_count": 8}, "must equal the head dimension, 16"),
    "other value width": ({"llama__attention__value_length": 8}, "must equal the head dimension, 16"),
    "longrope": ({"llama__rope__scaling__type": "longrope"}, "tensor rope_factors_short.weight is missing"),
    "magic": ({"llama__rope__scaling__type": "magic"}, "expected one of none, linear, yarn, longrope"),
    "soft caps": ({"llama__attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0 is not supported"),
    "sharper without yarn": ({"llama__rope__scaling__attn_factor": 1.5}, "is not supported without yarn or longrope"),
    "other yarn": ({"llama__rope__scaling__yarn_ext_factor": 0.5}, "yarn_ext_factor = 0.5 is not supported"),
    "scaling without factor": ({"llama__rope__scaling__type": "linear"}, "factor = None must be a positive number"),
    "unknown tensor": ({"tensors": {"blk.0.ffn_gate_inp.weight": np.ones(8, np.float32)}}, "blk.0.ffn_gate_inp.weight"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_model(case: str, tmp_path: Path) -> None:
    extra, message = REFUSED[case]
    with pytest.raises(CheckpointError, match=message):
        llama(tmp_path, **extra)


def edited(tmp_path: Path, key: str, value: Any) -> Path:
    """A llama file in which one metadata value was replaced, or removed where `value` is None."""
    reader = gguf.GGUFReader(write_gguf(tmp_path / "m.gguf", "llama", tiny_model("llama")))
    architecture = value if key == "general.architecture" else "llama"
    writer = gguf.GGUFWriter(tmp_path / "edited.gguf", architecture)
    for name, field in reader.fields.items():
        if not name.startswith(("GGUF.", "general.architecture", key)):
            writer.add_key_value(name, field.contents(), field.types[0])
    if value is not None and key != "general.architecture":
        writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "edited.gguf"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("general.architecture", "qwen3moe", "architecture 'qwen3moe' is not supported: a mixture of experts"),
        ("general.architecture", "mamba", "architecture 'mamba' is not supported. Use a model of one of llama"),
        ("llama.block_count", None, "llama.block_count = None must be a positive integer"),
        ("llama.block_count", -1, "llama.block_count = -1 must be"),
        ("llama.block_count", 2**31 - 1, "is more than the 21 tensors"),
        ("llama.embedding_length", "64", "llama.embedding_length = '64' must be"),
        ("llama.attention.head_count", 0, "head_count = 0 must be"),
        ("llama.attention.head_count_kv", [2, 4], "the same for every layer"),
        ("llama.attention.layer_norm_rms_epsilon", float("nan"), "must be a positive number"),
    ],
)
def test_wrong_metadata(key: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(edited(tmp_path, key, value))


def test_one_head_count_per_layer(tmp_path: Path) -> None:
    path = edited(tmp_path, "llama.attention.head_count_kv", [2, 2])
    assert open_checkpoint(path).config["num_key_value_heads"] == 2


def test_rows_that_heads_cannot_share(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(edited(tmp_path, "llama.attention.head_count_kv", 3))
    with pytest.raises(CheckpointError, match="32 rows, which 3 heads cannot share"):
        checkpoint.load("model.layers.0.self_attn.k_proj.weight", torch.float32)


def test_unknown_name_gets_a_hint(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", "llama", tiny_model("llama")))
    message = r"no tensor 'model\.norm\.wieght'.*Closest: model\.norm\.weight"
    with pytest.raises(CheckpointError, match=message):
        checkpoint.shape("model.norm.wieght")
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load("model.norm.wieght", torch.float32)
