"""A small decoder in plain torch whose parameter names are Hugging Face's: Llama for policies, Qwen2 for the PRM."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a model. `bias`: biases on q, k and v (Qwen2). `labels` > 0: a score head, no language-model head."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    num_key_value_heads: int = 2
    head_dim: int = 32
    max_position_embeddings: int = 512
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    bias: bool = False
    labels: int = 0

    def config(self, special: dict[str, int]) -> dict[str, Any]:
        """The Hugging Face config.json; `special` holds bos/eos/pad ids."""
        values = asdict(self)
        labels, bias = values.pop("labels"), values.pop("bias")
        values |= special | {
            "architectures": ["Qwen2ForProcessRewardModel" if labels else "LlamaForCausalLM"],
            "model_type": "qwen2" if bias else "llama",
            "hidden_act": "silu",
            "tie_word_embeddings": not labels,
            "initializer_range": 0.02,
        }
        if bias:
            values["use_sliding_window"] = False
        else:
            values |= {"attention_bias": False, "mlp_bias": False}
        return values


SHAPES: dict[str, dict[str, int]] = {
    "policy-small": {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4},
    "policy-large": {"hidden_size": 256, "intermediate_size": 784, "num_hidden_layers": 3, "num_attention_heads": 8},
    "prm": {"hidden_size": 128, "intermediate_size": 288, "num_hidden_layers": 6, "num_attention_heads": 4,
            "bias": True, "labels": 2},
}  # fmt: skip


class Attention(nn.Module):
    """Grouped-query attention with half-split RoPE."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, q, bias=shape.bias)
        self.k_proj = nn.Linear(shape.hidden_size, kv, bias=shape.bias)
        self.v_proj = nn.Linear(shape.hidden_size, kv, bias=shape.bias)
        self.o_proj = nn.Linear(q, shape.hidden_size, bias=False)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None, layer: int
    ) -> Tensor:
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = rotate(q, *rope), rotate(k, *rope)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = F.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=mask, is_causal=mask is None)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))


class Mlp(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = Mlp(shape)


class Decoder(nn.Module):
    """Embedding, layers, final norm: what Hugging Face calls `model`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)


class TinyModel(nn.Module):
    """Logits through the tied embedding, and, when the shape has labels, a score head Linear-ReLU-Linear."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        if shape.labels:
            self.score = nn.Sequential(
                nn.Linear(shape.hidden_size, shape.hidden_size), nn.ReLU(), nn.Linear(shape.hidden_size, shape.labels)
            )
        inverse = shape.rope_theta ** (-torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim)
        angles = torch.outer(torch.arange(shape.max_position_embeddings, dtype=torch.float32), inverse)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.apply(self._initialise)
        for name, weight in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.data.mul_((2 * shape.num_hidden_layers) ** -0.5)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5 * 0.7)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)

    def hidden(
        self, tokens: Tensor, positions: Tensor | None = None, mask: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """The normed last hidden state. tokens [batch, length] int64 -> [batch, length, hidden].

        positions [batch, length] int64 (default 0, 1, ...); mask [batch, 1, length, keys] bool (default causal).
        """
        x = self.model.embed_tokens(tokens)
        return self.model.norm(self.run_layers(x, range(self.shape.num_hidden_layers), positions, mask, cache))

    def run_layers(
        self,
        x: Tensor,
        layers: range,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The residual stream [batch, length, hidden] after some layers; other arguments as for `hidden`."""
        if positions is None:
            positions = torch.arange(x.shape[1])[None]
        rope = self.cos[positions][:, None], self.sin[positions][:, None]
        for i in layers:
            layer = self.model.layers[i]
            x = x + layer.self_attn(layer.input_layernorm(x), rope, mask, cache, i)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return x

    @torch.no_grad()
    def scale_stream(self, factor: float, layers: range) -> None:
        """Multiply the residual stream by a factor, from the embedding through `layers`: nothing they compute changes.

        Every layer norms what it reads, so the size of the stream is free; new layers learn beside a stream near 1.
        """
        self.model.embed_tokens.weight.mul_(factor)
        for i in layers:
            self.model.layers[i].self_attn.o_proj.weight.mul_(factor)
            self.model.layers[i].mlp.down_proj.weight.mul_(factor)

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits through the tied embedding."""
        return F.linear(hidden, self.model.embed_tokens.weight)


class Cache:
    """Keys and values of a batch of sequences, grown by concatenation: simple, for evaluation only."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if layer in self.layers:
            old_k, old_v = self.layers[layer]
            k, v = torch.cat((old_k, k), 2), torch.cat((old_v, v), 2)
        self.layers[layer] = k, v
        return k, v

    def select(self, rows: Tensor) -> None:
        """Keep (and repeat) the given rows."""
        self.layers = {i: (k[rows], v[rows]) for i, (k, v) in self.layers.items()}


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split rotary embedding. x [batch, head, length, dim]; cos, sin [batch, 1, length, dim/2]."""
    a, b = x.chunk(2, -1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def build(name: str, vocab_size: int) -> TinyModel:
    """A freshly initialised model of a named shape."""
    return TinyModel(Shape(vocab_size=vocab_size, **SHAPES[name]))


def parameter_count(model: nn.Module) -> int:
    """Number of parameters, the tied embedding once."""
    return sum(weight.numel() for weight in model.parameters())
