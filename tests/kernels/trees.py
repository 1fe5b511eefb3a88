"""Random KV trees with their keys and values, a pool that holds them, and attention the slow way."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from branchwise import _C

BLOCK = 32


@dataclass
class Tree:
    """A KvTree beside the K and V of each node: `kv[node]` is [2, kv_head, tokens, head_dim]."""

    n_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    n_blocks: int = 256
    kv: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cache = _C.KvTree(self.n_blocks)
        # NaN wherever nothing was written: a kernel that reads too far shows it.
        width = _C.kv_width(self.head_dim)
        self.pool = torch.full((self.n_blocks, self.n_kv_heads, 2, width), math.nan, dtype=self.dtype)

    def grow(self, parent: int | None, length: int) -> int:
        """Add a sealed node of random tokens under `parent` (None: a root)."""
        node: int = self.cache.add_root() if parent is None else self.cache.fork(parent, 1)[0]
        self.cache.append(node, length)
        self.kv[node] = torch.randn(2, self.n_kv_heads, length, self.head_dim).to(self.dtype)
        self.cache.seal(node)
        for index, block in enumerate(self.cache.blocks(node)):
            part = self.kv[node][:, :, index * BLOCK : (index + 1) * BLOCK]
            self.pool[block] = encode_block(part)
        return node

    def path_kv(self, node: int | None) -> Tensor:
        """K and V from the root to the end of `node`."""
        parts = []
        while node is not None:
            parts.append(self.kv[node])
            node = self.cache.parent(node)
        return torch.cat(parts[::-1], dim=2)

    def plan(
        self, nodes: list[int], counts: list[int], chunk_slots: int = 256, max_item_rows: int = 64
    ) -> _C.AttentionPlan:
        """Rows for the last counts[i] tokens of nodes[i]."""
        planner = _C.Planner(self.cache, chunk_slots, max_item_rows)
        return planner.build(np.array(nodes, np.int64), np.array(counts, np.int32))


def encode_block(kv: Tensor) -> Tensor:
    """K and V of the first slots of a block as the pool holds them, [kv_head, 2, width]; NaN where nothing is written.

    kv: [2, kv_head, tokens, head_dim]. Lanes hold `step` steps: of head_dim in keys, of slots in values.
    """
    step, dim = 4 // kv.dtype.itemsize, kv.shape[3]
    padded = _C.kv_width(dim) // BLOCK
    whole = torch.full((2, kv.shape[1], BLOCK, padded), math.nan, dtype=kv.dtype)
    whole[:, :, : kv.shape[2], :dim] = kv
    whole[0, :, : kv.shape[2], dim:] = 0
    keys = whole[0].unflatten(2, (-1, step)).permute(0, 2, 1, 3)  # [kv_head, padded / step, slot, step]
    values = whole[1].unflatten(1, (-1, step)).unflatten(3, (-1, BLOCK)).permute(0, 3, 1, 4, 2)
    return torch.stack([keys.flatten(1), values.flatten(1)], dim=1)


def decode_blocks(pool: Tensor, head_dim: int) -> Tensor:
    """The inverse for all blocks: [2, block, slot, kv_head, head_dim]. pool: [block, kv_head, 2, width]."""
    step = 4 // pool.dtype.itemsize
    keys = pool[:, :, 0].unflatten(2, (-1, BLOCK, step)).permute(0, 3, 1, 2, 4).flatten(3)
    values = pool[:, :, 1].unflatten(2, (-1, BLOCK // step, BLOCK, step)).permute(0, 3, 5, 1, 2, 4)
    return torch.stack([keys, values.flatten(4).flatten(1, 2)])[..., :head_dim]


def random_tree(tree: Tree, lengths: list[int], levels: int, rng: np.random.Generator) -> list[int]:
    """Grow a tree of `levels` levels with 1 to 3 children each; returns its leaves."""
    frontier = [tree.grow(None, int(rng.choice(lengths)))]
    for _ in range(levels - 1):
        frontier = [tree.grow(node, int(rng.choice(lengths))) for node in frontier for _ in range(rng.integers(1, 4))]
    return frontier


def attention_reference(
    tree: Tree,
    nodes: list[int],
    counts: list[int],
    order: list[int],
    q: Tensor,
    scale: float,
    window: int,
    softcap: float,
) -> Tensor:
    """Each row against its whole path in float64. q: [rows, n_heads * head_dim], rows in the plan's order."""
    out = torch.zeros(q.shape, dtype=torch.float64)
    n_heads = q.shape[1] // tree.head_dim
    row = 0
    for index in order:
        keys, values = (x.repeat_interleave(n_heads // tree.n_kv_heads, 0) for x in tree.path_kv(nodes[index]).double())
        total, count = keys.shape[1], counts[index]
        query = q[row : row + count].double().view(count, n_heads, tree.head_dim).transpose(0, 1)
        scores = (query @ keys.transpose(1, 2)) * scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        distance = torch.arange(total - count, total)[:, None] - torch.arange(total)
        hidden = (distance < 0) | (distance >= (window or total))
        weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
        out[row : row + count] = (weights @ values).transpose(0, 1).flatten(1)
        row += count
    return out
