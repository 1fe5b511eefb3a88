"""Models with weights of 4 to 8 bits: what they compute is the model of the rounded weights, whatever the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor

import branchwise as bw
from branchwise import _C
from branchwise.config import EngineConfig
from branchwise.engine.memory import Home, check_weights
from branchwise.errors import ConfigError
from branchwise.models.config import decoder_config
from branchwise.models.layout import laid_out
from branchwise.weights import open_checkpoint
from branchwise.weights.blocks import QUANTISED, quantise
from branchwise.weights.matrix import read_matrix, weight_bytes
from checkpoints import FAMILY_CONFIGS, MemoryCheckpoint, random_checkpoint
from model_tools import all_logits, cpu_decoder
from tolerances import INT8_LOGITS_REL_L2
from weights.samples import tiny_model, write_gguf

TOKENS = torch.randint(3, 90, (70,), generator=torch.Generator().manual_seed(7)).tolist()
MIXED = {"q_proj": Kind.Q4_1, "k_proj": Kind.Q4_1, "v_proj": Kind.Q8_0, "gate_proj": Kind.Q5_1, "up_proj": Kind.F16}


def rounded(checkpoint: MemoryCheckpoint, form: str) -> MemoryCheckpoint:
    """The checkpoint with every matrix (and no embedding) replaced by what its codes stand for."""
    tensors = dict(checkpoint.tensors)
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    for name in tensors:
        if name.endswith("_proj.weight") or name == "lm_head.weight":
            tensors[name] = quantise(tensors[name], QUANTISED[form]).dense()
    config = {**checkpoint.config, "tie_word_embeddings": False}
    return MemoryCheckpoint(config, tensors, checkpoint.tokenizer())


def assert_same_model(given: Tensor, expected: Tensor) -> None:
    error = ((given - expected).norm() / expected.norm()).item()
    assert error <= INT8_LOGITS_REL_L2
    assert error > 1e-6, "nothing was rounded: were blocks used at all?"


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
@pytest.mark.parametrize("form", QUANTISED)
def test_logits_are_those_of_the_rounded_weights(family: str, form: str) -> None:
    checkpoint = random_checkpoint(family, seed=5)
    model = cpu_decoder(checkpoint, torch.float32, weights=form)
    assert [type(part) for part in model.layers[0].qkv.packed] == [_C.QuantisedWeight]
    expected = all_logits(cpu_decoder(rounded(checkpoint, form), torch.float32), TOKENS)
    assert_same_model(all_logits(model, TOKENS), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", QUANTISED)
def test_a_row_does_not_depend_on_its_batch(form: str, dtype: torch.dtype) -> None:
    model = cpu_decoder(random_checkpoint("qwen2", seed=2), dtype, weights=form)
    assert torch.equal(all_logits(model, TOKENS, chunk=64), all_logits(model, TOKENS, chunk=7))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2", "phi3", "granite"])
def test_a_file_is_used_as_it_is_stored(architecture: str, tmp_path: Path) -> None:
    def kind_of(name: str) -> Kind | None:
        part = name.split(".")[-2]
        return MIXED.get(part, Kind.Q4_0) if part.endswith("_proj") or part == "embed_tokens" else None

    path = write_gguf(tmp_path / "m.gguf", architecture, tiny_model(architecture), kind_of=kind_of)
    checkpoint = open_checkpoint(path)
    model = cpu_decoder(checkpoint, torch.float32, weights="stored")
    assert_same_model(all_logits(model, TOKENS), all_logits(cpu_decoder(checkpoint, torch.float32), TOKENS))
    checkpoint = laid_out(checkpoint, decoder_config(checkpoint.config, architecture))
    dense = read_matrix(checkpoint, "model.layers.0.self_attn.q_proj.weight", "dense", torch.float32)
    blocks = read_matrix(checkpoint, "model.layers.0.self_attn.q_proj.weight", "stored", torch.float32)
    assert torch.allclose(blocks.dense(), dense, atol=1e-6)
    part = checkpoint.load_blocks("model.layers.0.self_attn.q_proj.weight", 3, 9)
    assert torch.allclose(part.dense(), dense[3:9], atol=1e-6)


def test_forms_take_the_memory_that_is_told() -> None:
    checkpoint = random_checkpoint("llama3", seed=1)
    matrices = sum(t.numel() for n, t in checkpoint.tensors.items() if "_proj" in n or n == "lm_head.weight")
    others = 2 * sum(t.numel() for t in checkpoint.tensors.values()) - 2 * matrices
    for form, bits in (("dense", 16), ("stored", 16), ("int8", 8), ("q8", 8.5), ("q4", 5)):
        assert weight_bytes(checkpoint, form, torch.bfloat16) == others + matrices * bits / 8


def test_a_device_without_integer_products_says_so() -> None:
    pytest.importorskip("triton", reason="the backends of the GPU need Triton")
    from branchwise.backend.gpu.backend import TritonBackend

    backend = TritonBackend.__new__(TritonBackend)
    backend.name = "cuda"
    with pytest.raises(ConfigError, match=r"weights='int8' cannot be multiplied on device 'cuda': choose dense, or"):
        check_weights([Home(backend, torch.bfloat16, {})], "int8")
    with pytest.raises(ConfigError, match="weights='fp4': expected one of dense, stored, int8, q8, q4"):
        EngineConfig(weights="fp4")  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["int8", "q8"])
def test_the_bundled_pair_still_solves(form: str) -> None:
    with bw.Engine(weights=form) as engine:
        result = engine.solve("12+3*4-5+60=?", strategy="beam", n=16)
        assert engine.resolved.weights == form
    assert result.answer == "79"


@pytest.mark.model
def test_a_real_file_predicts_the_same_words(models_dir: Path) -> None:
    path = models_dir / "smollm2-135m-instruct-q4_1.gguf"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    checkpoint = open_checkpoint(path)
    tokens = checkpoint.tokenizer().encode("The capital of France is Paris, and the capital of Italy is Rome. " * 4)
    stored, dense = (
        all_logits(cpu_decoder(checkpoint, torch.bfloat16, weights=form), tokens) for form in ("stored", "dense")
    )
    assert (stored.argmax(1) == dense.argmax(1)).float().mean() > 0.9
