"""Real GGUF files: complete, bit-equal to transformers' reading of them, and loaded in little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from branchwise.weights import open_checkpoint
from branchwise.weights.checkpoint import Checkpoint

FILES = {
    "smollm2": "smollm2-135m-instruct-q4_1.gguf",
    "gemma3": "gemma-3-270m-q4_k_m.gguf",
    "qwen2": "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    "qwen2-1.5b": "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
}

pytestmark = pytest.mark.model


def real_file(models_dir: Path, name: str) -> Path:
    path = models_dir / FILES[name]
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def expected_names(checkpoint: Checkpoint) -> set[str]:
    """The tensors that a model of this configuration has, and their shapes checked against it."""
    config = checkpoint.config
    hidden, inner, width = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    shapes = {
        "self_attn.q_proj.weight": (q, hidden),
        "self_attn.k_proj.weight": (kv, hidden),
        "self_attn.v_proj.weight": (kv, hidden),
        "self_attn.o_proj.weight": (hidden, q),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    if config["attention_bias"]:
        shapes |= {"self_attn.q_proj.bias": (q,), "self_attn.k_proj.bias": (kv,), "self_attn.v_proj.bias": (kv,)}
    if config["model_type"] == "gemma3_text":
        shapes |= {f"{place}_feedforward_layernorm.weight": (hidden,) for place in ("pre", "post")}
        shapes |= {f"self_attn.{part}_norm.weight": (width,) for part in "qk"}
    full = {f"model.layers.{i}.{name}": s for i in range(config["num_hidden_layers"]) for name, s in shapes.items()}
    full |= {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        full["lm_head.weight"] = (config["vocab_size"], hidden)
    for name, shape in full.items():
        assert checkpoint.shape(name) == shape, name
    return set(full)


@pytest.mark.parametrize("name", FILES)
def test_complete(name: str, models_dir: Path) -> None:
    checkpoint = open_checkpoint(real_file(models_dir, name))
    assert checkpoint.names() == expected_names(checkpoint)


def test_known_configurations(models_dir: Path) -> None:
    smollm2 = open_checkpoint(real_file(models_dir, "smollm2")).config
    assert (smollm2["rms_norm_eps"], smollm2["rope_theta"], smollm2["head_dim"]) == (1e-5, 1e5, 64)
    assert smollm2["tie_word_embeddings"]
    qwen2 = open_checkpoint(real_file(models_dir, "qwen2")).config
    assert (qwen2["rms_norm_eps"], qwen2["rope_theta"], qwen2["attention_bias"]) == (1e-6, 1e6, True)
    gemma3 = open_checkpoint(real_file(models_dir, "gemma3")).config
    assert (gemma3["head_dim"], gemma3["query_pre_attn_scalar"], gemma3["sliding_window"]) == (256, 256, 512)
    assert [i for i, kind in enumerate(gemma3["layer_types"]) if kind == "full_attention"] == [5, 11, 17]


def test_tokenizer_fits_the_embedding(models_dir: Path) -> None:
    checkpoint = open_checkpoint(real_file(models_dir, "smollm2"))
    tokenizer = checkpoint.tokenizer()
    assert tokenizer.vocab_size == checkpoint.config["vocab_size"]
    assert tokenizer.bos_id == checkpoint.config["bos_token_id"]
    assert checkpoint.config["eos_token_id"] in tokenizer.eos_ids
    assert tokenizer.decode(tokenizer.encode("x = 1\n\ny")) == "x = 1\n\ny"


def transformers_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a GGUF file as transformers' own loader reads them, in fp32."""
    config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # transformers' own, and none of them is about the weights
@pytest.mark.parametrize("name", ["smollm2", "gemma3", "qwen2"])
def test_bit_equal_to_transformers(name: str, models_dir: Path) -> None:
    path = real_file(models_dir, name)
    checkpoint, known = open_checkpoint(path), transformers_weights(path)
    assert checkpoint.names() == set(known)
    for tensor in checkpoint.names():
        assert torch.equal(checkpoint.load(tensor, torch.float32), known[tensor]), tensor


PEAK = """
import re, sys, torch
from pathlib import Path
from branchwise.weights import open_checkpoint
def peak_bytes():  # not ru_maxrss: a child inherits its parent's
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text()).group(1)) * 1024
checkpoint = open_checkpoint(sys.argv[1])
dtype = getattr(torch, sys.argv[2])
checkpoint.load("model.norm.weight", dtype)  # loads the libraries
before = peak_bytes()
tensors = [checkpoint.load(name, dtype) for name in sorted(checkpoint.names())]
peak = peak_bytes() - before
sizes = [tensor.nbytes for tensor in tensors]
print(peak, sum(sizes), max(sizes))
"""


def peak_memory(source: Path, dtype: str) -> tuple[int, int, int]:
    """Bytes that loading everything added to the peak, bytes of all tensors, bytes of the largest."""
    env = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    if not Path("/proc/self/status").is_file():
        pytest.skip("peak memory is read from /proc/self/status, which this system does not have")
    command = [sys.executable, "-c", PEAK, str(source), dtype]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    peak, total, largest = map(int, done.stdout.split())
    return peak, total, largest


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
def test_peak_memory_of_a_gguf(dtype: str, models_dir: Path) -> None:
    peak, total, largest = peak_memory(real_file(models_dir, "smollm2"), dtype)
    assert total * 0.9 < peak < total + largest


@pytest.mark.slow
def test_peak_memory_of_large_matrices(models_dir: Path) -> None:
    peak, total, _ = peak_memory(real_file(models_dir, "qwen2"), "bfloat16")
    assert peak < total + (32 << 20)


def test_peak_memory_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    tensors = {f"layer.{i}": torch.full((4 << 20,), float(i)) for i in range(8)}  # 8 x 16 MiB
    save_file(tensors | {"model.norm.weight": torch.ones(4)}, tmp_path / "model.safetensors")
    for dtype in ("float32", "bfloat16"):
        peak, total, _ = peak_memory(tmp_path, dtype)
        assert total * 0.9 < peak < total + (16 << 20) + (8 << 20)  # the stored tensor, and some slack
