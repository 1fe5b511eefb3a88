"""Which matrix gives the logits: one rule for the policy, a PRM's words, every form of weights, cache and GGUF."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from branchwise.backend.cpu.backend import CpuBackend
from branchwise.errors import CheckpointError
from branchwise.models.config import decoder_config
from branchwise.prm_format import Words
from branchwise.scoring.heads import Source, read_head
from branchwise.weights import open_checkpoint
from branchwise.weights.matrix import EMBEDDING, HEAD, head_name, weight_bytes
from checkpoints import MemoryCheckpoint, random_checkpoint
from model_tools import all_logits, cpu_decoder
from weights.samples import tiny_model, write_gguf
from weights.test_safetensors_file import save_file

TOKENS = list(range(3, 40))


def word_rows(checkpoint: Any, config: Any) -> torch.Tensor:
    """What a PRM that says word 5 or word 9 reads of the matrix: [2, hidden]."""
    written: Any = SimpleNamespace(word=int, name="words")
    (rows,) = read_head(Words("5", "9"), Source(checkpoint, config, written)).tensors
    return rows


def with_head(tied: bool, head: str) -> MemoryCheckpoint:
    """A model whose config says `tied`, with an lm_head that is "absent", "equal" to the embedding, or "other"."""
    checkpoint = random_checkpoint("qwen2", seed=4, tie_word_embeddings=True)
    checkpoint.config["tie_word_embeddings"] = tied
    embedding = checkpoint.tensors[EMBEDDING]
    if head != "absent":
        checkpoint.tensors[HEAD] = embedding.clone() if head == "equal" else embedding.flip(0)
    return checkpoint


@pytest.mark.parametrize("weights", ["dense", "int8", "q8", "q4"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_stored_head_is_the_one_whatever_the_config_says(tied: bool, weights: str) -> None:
    given = all_logits(cpu_decoder(with_head(tied, "other"), torch.float32, weights=weights), TOKENS)
    plain = all_logits(cpu_decoder(with_head(True, "absent"), torch.float32, weights=weights), TOKENS)
    torch.testing.assert_close(given, plain.flip(1), rtol=0, atol=1e-5)
    equal = all_logits(cpu_decoder(with_head(tied, "equal"), torch.float32, weights=weights), TOKENS)
    assert torch.equal(equal, plain)


@pytest.mark.parametrize("tied", [True, False])
def test_a_prm_reads_the_words_of_the_same_matrix(tied: bool) -> None:
    checkpoint = with_head(tied, "other")
    rows = word_rows(checkpoint, decoder_config(checkpoint.config, "x"))
    assert torch.equal(rows, checkpoint.tensors[HEAD][[5, 9]])
    checkpoint = with_head(True, "absent")
    rows = word_rows(checkpoint, decoder_config(checkpoint.config, "x"))
    assert torch.equal(rows, checkpoint.tensors[EMBEDDING][[5, 9]])


def test_no_head_at_all_is_an_error_for_whoever_needs_one() -> None:
    checkpoint = with_head(False, "absent")
    message = r"lm_head\.weight is missing, and the config does not say tie_word_embeddings: true"
    with pytest.raises(CheckpointError, match=message):
        cpu_decoder(checkpoint, torch.float32)
    with pytest.raises(CheckpointError, match=message):
        word_rows(checkpoint, decoder_config(checkpoint.config, "x"))
    assert cpu_decoder(checkpoint, torch.float32, head=False).head is None


def test_families_that_tie_where_the_config_is_silent() -> None:
    for family, tied in (("gemma3", True), ("qwen2", False), ("llama", False)):
        checkpoint = random_checkpoint(family)
        del checkpoint.config["tie_word_embeddings"]
        assert decoder_config(checkpoint.config, family).tied is tied


@pytest.mark.parametrize("tied", [True, False])
def test_gguf_and_folder_keep_to_it(tied: bool, tmp_path: Path) -> None:
    model = tiny_model("llama")
    expected = model(torch.tensor([TOKENS])).logits[0].detach()
    path = write_gguf(tmp_path / "m.gguf", "llama", model, rope_theta=10000.0)
    checkpoint = open_checkpoint(path)
    assert head_name(checkpoint) == HEAD
    np.testing.assert_allclose(all_logits(cpu_decoder(checkpoint, torch.float32), TOKENS), expected, atol=1e-3)
    model.save_pretrained(tmp_path / "folder")
    config = tmp_path / "folder" / "config.json"
    config.write_text(
        config.read_text().replace('"tie_word_embeddings": false', f'"tie_word_embeddings": {str(tied).lower()}')
    )
    checkpoint = open_checkpoint(tmp_path / "folder")
    assert checkpoint.config["tie_word_embeddings"] is tied
    np.testing.assert_allclose(all_logits(cpu_decoder(checkpoint, torch.float32), TOKENS), expected, atol=1e-3)


def test_kept_weights_hold_the_same_head(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.config.tie_word_embeddings = True
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    model.config.to_json_file(tmp_path / "config.json")
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    cache = CpuBackend().weight_cache(tmp_path / "cache")
    first, second = (all_logits(cpu_decoder(checkpoint, torch.float32, cache=cache), TOKENS) for _ in range(2))
    assert list((tmp_path / "cache").iterdir())
    assert torch.equal(first, second)
    assert torch.equal(first, all_logits(cpu_decoder(checkpoint, torch.float32), TOKENS))


def test_memory_is_that_of_the_head_that_is_used() -> None:
    matrix = with_head(True, "absent").tensors[EMBEDDING].numel()
    dense = [weight_bytes(with_head(True, head), "dense", torch.float32) for head in ("absent", "other")]
    assert dense[1] - dense[0] == 4 * matrix


def test_words_of_a_prm_are_divided_as_the_logits_are() -> None:
    checkpoint = with_head(True, "other")
    config = replace(decoder_config(checkpoint.config, "x"), logit_divisor=4.0)
    rows = word_rows(checkpoint, config)
    assert torch.equal(rows, checkpoint.tensors[HEAD][[5, 9]] / 4)
