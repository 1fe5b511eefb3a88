"""Models without checkpoints: weights drawn on the device, at the shapes of real ones, and a tokenizer of numbers."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from branchwise.backend.base import Backend
from branchwise.engine.engine import StepEngine
from branchwise.engine.kv import KvCache
from branchwise.engine.memory import kv_blocks
from branchwise.models.config import decoder_config
from branchwise.models.load import expected_shapes, load_decoder
from branchwise.scoring.prm import Prm
from branchwise.scoring.scorer import Scorer

Json = dict[str, Any]
PROMPT, TINY_PROMPT = 200, 6  # tokens


def _qwen2(hidden: int, layers: int, heads: int, kv_heads: int, inner: int, words: int, tied: bool) -> Json:
    return {
        "model_type": "qwen2", "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": inner, "vocab_size": words, "tie_word_embeddings": tied,
        "rope_theta": 1e6, "rms_norm_eps": 1e-6, "max_position_embeddings": 32_768, "hidden_act": "silu",
    }  # fmt: skip


SHAPES = {
    "qwen2.5-0.5b": _qwen2(896, 24, 14, 2, 4864, 151_936, True),
    "qwen2.5-1.5b": _qwen2(1536, 28, 12, 2, 8960, 151_936, True),
    "qwen2.5-7b": _qwen2(3584, 28, 28, 4, 18_944, 152_064, False),
    "tiny": _qwen2(32, 1, 2, 1, 48, 300, True),
}


class Synthetic:
    """A `Checkpoint` whose weights are drawn where they are needed, the same ones for the same name.

    draw: else they are memory that nobody has touched
    """

    def __init__(self, name: str, device: torch.device, draw: bool = True) -> None:
        self.source, self.device, self.draw = f"synthetic {name}", device, draw
        self.config = SHAPES[name]
        self._shapes = expected_shapes(decoder_config(self.config, self.source))
        if self.config["tie_word_embeddings"]:
            del self._shapes["lm_head.weight"]

    def files(self) -> list[Path]:
        return []

    def names(self) -> set[str]:
        return set(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def block_format(self, name: str) -> None:
        return None

    def load(self, name: str, dtype: torch.dtype) -> Tensor:
        shape = self._shapes[name]
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=dtype, device=self.device)
        return self._drawn(name, shape, dtype)

    def load_rows(self, name: str, begin: int, end: int, dtype: torch.dtype) -> Tensor:
        return self._drawn(f"{name}:{begin}", (end - begin, self._shapes[name][1]), dtype)

    def _drawn(self, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if not self.draw:
            return torch.empty(shape, device=self.device, dtype=dtype)
        random = torch.Generator(self.device).manual_seed(zlib.crc32(key.encode()))
        scale = 2 * self.config["hidden_size"] ** -0.5  # logits spread as a trained model's
        return (torch.randn(shape, generator=random, device=self.device, dtype=dtype)).mul_(scale)


class Numbers:
    """Stands in for tokenizer and PRM format: the text of a token is its number, so a step has as many for both."""

    chat_template = None
    add_bos = False
    bos_id = None

    def __init__(self, words: int) -> None:
        self.vocab_size = words
        self.eos_ids: frozenset[int] = frozenset()

    def encode(self, text: str, **_: Any) -> list[int]:
        return [int(word) if word.isdigit() else 0 for word in text.split()]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(f"{token} " for token in tokens)

    def token_bytes(self, token: int) -> bytes:
        return b"%d " % token

    def prompt(self, problem: str) -> list[int]:
        """A problem is the number of its tokens."""
        return [1] * int(problem)

    def step(self, index: int, text: str) -> list[int]:
        return [*self.encode(text), 2]

    def readings(self, index: int, text: str) -> list[list[int]]:
        return [self.step(index, text)]


def prompt_tokens(name: str) -> list[int]:
    """A prompt for a model of that shape."""
    return [1] * (TINY_PROMPT if name == "tiny" else PROMPT)


def policy(name: str, backend: Backend, dtype: torch.dtype, kv_memory: int, draw: bool = True) -> StepEngine:
    """A step engine over a model of that shape."""
    checkpoint = cast(Any, Synthetic(name, backend.device, draw))
    model = load_decoder(checkpoint, dtype, backend)
    kv = KvCache(model.config, kv_blocks([model.config], dtype, backend, kv_memory), dtype, backend, kv_memory)
    return StepEngine(model, cast(Any, Numbers(model.config.vocab_size)), kv)


def judge(name: str, backend: Backend, dtype: torch.dtype, kv_memory: int, draw: bool = True) -> Scorer:
    """A scorer over a model of that shape, with the two-layer head of Qwen2.5-Math-PRM."""
    checkpoint = cast(Any, Synthetic(name, backend.device, draw))
    model = load_decoder(checkpoint, dtype, backend, head=False)
    hidden = model.config.hidden_size
    shapes = [(hidden, hidden), (hidden,), (2, hidden), (2,)]
    head = backend.prm_head("mlp", [torch.randn(shape, device=backend.device) * hidden**-0.5 for shape in shapes])
    numbers = cast(Any, Numbers(model.config.vocab_size))
    kv = KvCache(model.config, kv_blocks([model.config], dtype, backend, kv_memory), dtype, backend, kv_memory)
    return Scorer(Prm(model, head, numbers, numbers, checkpoint.source), kv)


def fits(name: str, backend: Backend, dtype: torch.dtype, others: int = 0) -> bool:
    """Whether weights of that shape take two thirds of the free memory at most."""
    shapes = expected_shapes(decoder_config(SHAPES[name], name))
    count = sum(torch.Size(shape).numel() for shape in shapes.values())
    return count * dtype.itemsize + others < backend.free_memory() * 2 / 3
