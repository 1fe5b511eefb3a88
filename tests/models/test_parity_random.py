"""Every family with random weights: logits equal transformers' in fp32."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from branchwise.backend.cpu.backend import LazyEmbedding
from branchwise.weights import open_checkpoint
from checkpoints import FAMILY_CONFIGS, SMALL, random_checkpoint
from model_tools import all_logits, cpu_decoder

transformers = pytest.importorskip("transformers", reason="transformers is the oracle of this test")

LOGIT_TOLERANCE = 1e-3  # the bar of the project; fp32 sums in another order stay far below


def oracle_logits(family: str, checkpoint, tokens: list[int]) -> torch.Tensor:
    settings = {**SMALL, **FAMILY_CONFIGS[family]}
    config = transformers.AutoConfig.for_model(**settings)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    missing, unexpected = model.load_state_dict(checkpoint.tensors, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0]


@pytest.mark.parametrize("family", FAMILY_CONFIGS)
@pytest.mark.parametrize("length", [1, 33, 150])
def test_logits_equal_transformers(family: str, length: int) -> None:
    checkpoint = random_checkpoint(family, seed=length)
    tokens = torch.randint(3, 90, (length,), generator=torch.Generator().manual_seed(7)).tolist()
    expected = oracle_logits(family, checkpoint, tokens)
    given = all_logits(cpu_decoder(checkpoint, torch.float32), tokens, chunk=64)
    assert (given - expected).abs().max() <= LOGIT_TOLERANCE
    assert torch.equal(given.argmax(1), expected.argmax(1))


def test_a_saved_folder_loads_and_agrees(tmp_path: Path) -> None:
    checkpoint = random_checkpoint("qwen2", seed=3)
    config = transformers.AutoConfig.for_model(**{**SMALL, **FAMILY_CONFIGS["qwen2"]})
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    model.load_state_dict(checkpoint.tensors, strict=False)
    model.tie_weights()
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    tokens = list(range(3, 60))
    given = all_logits(cpu_decoder(open_checkpoint(tmp_path), torch.float32), tokens)
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0]
    assert (given - expected).abs().max() <= LOGIT_TOLERANCE


def test_embedding_rows_are_read_once_and_right() -> None:
    checkpoint = random_checkpoint("llama", seed=5)
    reads: list[int] = []

    def counted(begin: int, end: int) -> torch.Tensor:
        reads.append(begin)
        return checkpoint.load_rows("model.embed_tokens.weight", begin, end, torch.float32)

    embedding = LazyEmbedding(counted, 128, 64, torch.float32)
    for tokens in ([5, 9, 5], [9, 5], [9, 100]):
        assert torch.equal(embedding(torch.tensor(tokens)), checkpoint.tensors["model.embed_tokens.weight"][tokens])
    assert sorted(reads) == [5, 9, 100]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory in use from /proc")
def test_embeddings_that_nobody_asks_for_take_no_memory() -> None:
    words, width = 100_000, 1024  # 400 MB
    embedding = LazyEmbedding(lambda begin, end: torch.ones(end - begin, width), words, width, torch.float32)
    embedding(torch.tensor([0]))
    before = resident_bytes()
    embedding(torch.arange(0, words, 1000))  # 100 rows of 4 KB, each far from the next
    assert resident_bytes() - before < 8 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
