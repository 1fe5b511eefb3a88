"""Real checkpoints: 64 greedy tokens on 20 prompts equal transformers', from the same dequantised weights."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

import branchwise as bw
from branchwise.weights import open_checkpoint
from model_tools import all_logits, cpu_decoder

transformers = pytest.importorskip("transformers", reason="transformers is the oracle of this test")

LOGIT_TOLERANCE = 1e-3
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n",
    "Q: What is 12 * 7?\nA:",
    "Once upon a time, there was a",
    "1, 2, 3, 5, 8, 13,",
    "Die Hauptstadt von Deutschland ist",
    "水は",
    "import numpy as np\n\nx =",
    "Water boils at",
    "SELECT name FROM users WHERE",
    "The derivative of x^2 is",
    "Roses are red,",
    "In 1969, humans first",
    "#include <stdio.h>\nint main() {",
    "La fórmula del agua es",
    "A triangle has sides 3, 4 and",
    "Subject: Meeting tomorrow\n\nDear",
    "The three laws of motion are",
    '{"name": "Alice", "age":',
    "🙂🙂🙂 means",
]


def oracle(path: Path):
    """transformers' model of the same family with our dequantised tensors."""
    checkpoint = open_checkpoint(path)
    config = transformers.AutoConfig.for_model(**checkpoint.config)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    names = {name for name, _ in model.named_parameters()}
    for name in sorted(checkpoint.names() & names):
        parent, _, leaf = name.rpartition(".")
        weight = torch.nn.Parameter(checkpoint.load(name, torch.float32), requires_grad=False)
        setattr(model.get_submodule(parent), leaf, weight)
    model.tie_weights()
    rotary = type(model.model.rotary_emb)
    model.model.rotary_emb = rotary(config)  # its buffers are computed, not loaded
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:  # Gemma's embedding scale
                module.register_buffer(name, torch.tensor(config.hidden_size**0.5), persistent=False)
    assert not [name for name, value in model.named_parameters() if value.is_meta]
    return model.eval()


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize(
    "name",
    ["smollm2-135m-instruct-q4_1", "gemma-3-270m-q4_k_m", "qwen2.5-coder-0.5b-instruct-q4_k_m"],
)
def test_greedy_equals_transformers(models_dir: Path, name: str) -> None:
    path = models_dir / f"{name}.gguf"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    engine = bw.Engine(path, dtype="float32", kv_memory=1 << 30, max_tokens=64, max_step_tokens=64)
    tokenizer = engine.policy.tokenizer
    prompts = [tokenizer.encode(prompt, bos=tokenizer.bos_id is not None and tokenizer.add_bos) for prompt in PROMPTS]
    grown = []
    for prompt in prompts:
        with engine.open(prompt, branches=1) as tree:
            (node,) = tree.expand(tree.root, temperature=0.0, stop="\0never\0")
            grown.append((node.tokens, node.logprob))
    del engine
    gc.collect()
    model = oracle(path)
    worst = 0.0
    for prompt, (tokens, logprob) in zip(prompts, grown, strict=True):
        assert len(tokens) == 64 or tokens[-1] in tokenizer.eos_ids
        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        assert logits.argmax(1).tolist() == tokens
        expected = logits.log_softmax(1).gather(1, torch.tensor(tokens)[:, None]).sum().item()
        worst = max(worst, abs(expected - logprob) / len(tokens))
    assert worst <= LOGIT_TOLERANCE


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("name", ["smollm2-135m-instruct-q4_1", "gemma-3-270m-q4_k_m"])
def test_logits_equal_transformers(models_dir: Path, name: str) -> None:
    path = models_dir / f"{name}.gguf"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    checkpoint = open_checkpoint(path)
    tokens = checkpoint.tokenizer().encode("\n".join(PROMPTS))
    given = all_logits(cpu_decoder(checkpoint, torch.float32), tokens)
    with torch.no_grad():
        expected = oracle(path)(torch.tensor([tokens])).logits[0]
    assert (given[:, : expected.shape[1]] - expected).abs().max() <= LOGIT_TOLERANCE
