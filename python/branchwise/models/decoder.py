"""The decoder: rows of tokens and an attention plan in, hidden states out, K and V stored in the pool on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from branchwise.backend.base import Backend, Embedding, Linear, Plan
from branchwise.models.config import DecoderConfig
from branchwise.models.rope import RopeTables


@dataclass(slots=True)
class Layer:
    """Weights of one layer; q, k, v are fused on load, gate and up by the backend."""

    input_norm: Tensor
    qkv: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    output: Linear
    attention_norm: Tensor | None  # after attention, sandwich norms only
    mlp_norm: Tensor
    gated: Linear  # act(gate(x)) * up(x)
    down: Linear
    post_mlp_norm: Tensor | None


@dataclass(frozen=True, slots=True)
class Scratch:
    """What every layer writes anew, allocated once a pass: an allocation costs as much as a small kernel."""

    normed: Tensor  # [rows, hidden]
    qkv: Tensor  # [rows, (n_heads + 2 * n_kv_heads) * head_dim]
    query: Tensor  # [rows, n_heads * head_dim]
    mixed: Tensor  # as query
    activated: Tensor  # [rows, intermediate]
    update: Tensor  # [rows, hidden] what a sub-layer adds to the residual stream

    def first(self, rows: int) -> Scratch:
        """The same memory for fewer rows."""
        return Scratch(*(getattr(self, part.name)[:rows] for part in fields(self)))


@dataclass(slots=True)
class Decoder:
    """A causal language model without its sampler.

    final_norm: [hidden]    head: lm_head as the backend's sampler takes it, None for a PRM
    """

    backend: Backend
    config: DecoderConfig
    dtype: torch.dtype
    embedding: Embedding
    layers: list[Layer]
    final_norm: Tensor
    head: Any
    rope: RopeTables  # by kind of layer
    embed_scale: float = field(init=False)

    def __post_init__(self) -> None:
        self.embed_scale = float(torch.tensor(self.config.embedding_scale, dtype=self.dtype))  # rounded as Gemma does

    def forward(self, tokens: Tensor, plan: Plan, pool: Sequence[Tensor], taps: Sequence[int] = ()) -> Tensor:
        """Hidden states after the final norm, one per row, and beside them those of the tapped layers.

        tokens: [rows] int64 in plan order    pool: by layer [block, kv_head, 2, the backend's kv_width]
        Returns [rows, (1 + taps) * hidden]. Writes the rows' keys and values at `plan.slots`.
        """
        return beside(self.through_layers(self.embed(tokens), plan, pool, taps=taps, every_row=True))

    def through_layers(
        self, residual: Tensor, plan: Plan, pool: Sequence[Tensor], *, taps: Sequence[int] = (),
        every_row: bool = False,
    ) -> list[Tensor]:  # fmt: skip
        """What follows the embedding, for the last token of each feed alone unless `every_row` is asked for.

        residual: [rows, hidden], overwritten
        taps: the residual stream is kept after so many layers, as the layer that follows reads it: normed
        Returns states after the final norm, then of each tap, in order of layers: [feeds, hidden] each.
        """
        scratch = self._scratch(residual)
        tapped: list[Tensor] = []
        update: Tensor | None = None  # what the last sub-layer adds to the residual stream
        for index, layer in enumerate(self.layers):
            room = scratch.normed
            if index in taps:  # a place of its own costs nothing
                room = torch.empty_like(room)
                tapped.append(room)
            normed = self._add_and_norm(residual, update, layer.input_norm, room)
            mixed = self._attention(index, layer, normed, plan, pool[index], scratch)
            if index == len(self.layers) - 1 and not every_row:
                # The KV is complete, and nobody asks for the other rows.
                mixed, residual = self.backend.last_rows(mixed, plan), self.backend.last_rows(residual, plan)
                scratch = scratch.first(len(residual))
                tapped = [self.backend.last_rows(states, plan) for states in tapped]
            update = layer.output(mixed, scratch.update)
            if layer.attention_norm is not None:
                update = self._norm(update, layer.attention_norm, torch.empty_like(update))
            normed = self._add_and_norm(residual, update, layer.mlp_norm, scratch.normed)
            update = self._mlp(layer, normed, scratch)
            if layer.post_mlp_norm is not None:
                update = self._norm(update, layer.post_mlp_norm, torch.empty_like(update))
        return [self._add_and_norm(residual, update, self.final_norm, scratch.normed), *tapped]

    def _scratch(self, like: Tensor) -> Scratch:
        config, rows = self.config, like.shape[0]
        heads, kv_heads = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        hidden = like.shape[1]
        widths = [hidden, heads + 2 * kv_heads, heads, heads, config.intermediate_size, hidden]
        return Scratch(*(like.new_empty(rows, width) for width in widths))

    def embed(self, tokens: Tensor) -> Tensor:
        """tokens: [rows] int64 -> [rows, hidden]."""
        rows = self.embedding(tokens)
        return rows if self.embed_scale == 1.0 else rows * self.embed_scale

    def _attention(self, index: int, layer: Layer, x: Tensor, plan: Plan, kv_layer: Tensor, scratch: Scratch) -> Tensor:
        config = self.config
        cos, sin = self.rope[config.rope_of[index]]
        self.backend.rope_store(
            layer.qkv(x, scratch.qkv), plan, cos, sin, scratch.query, kv_layer, config.n_heads, config.n_kv_heads,
            config.head_dim, layer.q_norm, layer.k_norm, config.eps, config.family.norm_add_one,
        )  # fmt: skip
        self.backend.tree_attention(
            scratch.query, kv_layer, plan, scratch.mixed, config.head_dim, config.scale, config.windows[index],
            config.attention_softcap,
        )  # fmt: skip
        return scratch.mixed

    def _mlp(self, layer: Layer, x: Tensor, scratch: Scratch) -> Tensor:
        return layer.down(layer.gated(x, scratch.activated), scratch.update)

    def _norm(self, x: Tensor, weight: Tensor, out: Tensor) -> Tensor:
        self.backend.rms_norm(x, weight, out, self.config.eps, self.config.family.norm_add_one)
        return out

    def _add_and_norm(self, residual: Tensor, update: Tensor | None, weight: Tensor, out: Tensor) -> Tensor:
        """residual += update, in place; its norm goes to `out`, which is returned."""
        if update is None:
            return self._norm(residual, weight, out)
        self.backend.add_rms_norm(update, residual, weight, out, self.config.eps, self.config.family.norm_add_one)
        return out


def beside(states: Sequence[Tensor]) -> Tensor:
    """[rows, hidden] each, side by side."""
    return states[0] if len(states) == 1 else torch.cat(list(states), dim=1)
