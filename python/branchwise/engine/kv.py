"""The KV cache of one model: the tree that says who owns which block, and the pool that holds the numbers."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from branchwise._C import KvTree, Planner
from branchwise.config import BLOCK_SIZE
from branchwise.errors import OutOfMemory
from branchwise.models.families import DecoderConfig


class KvCache:
    """KV tree, planner and pool of one model, plus the blocks that admitted problems have been promised.

    pool: [layer, block, kv_head, 2, block_size * head_dim]; K of a block is [head_dim][slot], V [slot][head_dim]
    """

    def __init__(self, config: DecoderConfig, n_blocks: int, dtype: torch.dtype) -> None:
        self.tree = KvTree(n_blocks, BLOCK_SIZE)
        self.planner = Planner(self.tree)
        self.pool: Tensor = torch.empty(
            config.n_layers, n_blocks, config.n_kv_heads, 2, BLOCK_SIZE * config.head_dim, dtype=dtype
        )
        self.slot_bytes = config.n_layers * config.n_kv_heads * 2 * config.head_dim * dtype.itemsize
        self.n_blocks = n_blocks
        self.n_reserved = 0

    def can_reserve(self, n_blocks: int) -> bool:
        """Whether so many blocks can be promised now. OutOfMemory when they never can."""
        if n_blocks > self.n_blocks:
            need, have = (count * BLOCK_SIZE * self.slot_bytes / 2**20 for count in (n_blocks, self.n_blocks))
            raise OutOfMemory(
                f"one problem needs up to {need:.0f} MiB of KV, the budget is {have:.0f} MiB: "
                "raise kv_memory, or lower n or max_tokens"
            )
        return self.n_reserved + n_blocks <= self.n_blocks

    def reserve(self, n_blocks: int) -> None:
        """Promise blocks; the caller asked `can_reserve` and gives them back with `release`."""
        self.n_reserved += n_blocks

    def release(self, n_blocks: int) -> None:
        """Give promised blocks back."""
        self.n_reserved -= n_blocks


def worst_case_blocks(prompt_tokens: int, branches: int, tokens: int, steps: int) -> int:
    """Blocks that `branches` paths of `tokens` tokens in at most `steps` steps can fill after one shared prompt.

    Every step starts on a fresh block, so a path of T tokens in S steps fills at most T / block_size + S blocks.
    """
    steps = min(steps, tokens)
    return ceil(prompt_tokens / BLOCK_SIZE) + 1 + branches * (ceil(tokens / BLOCK_SIZE) + steps)


def block_bytes(config: DecoderConfig, dtype: torch.dtype) -> int:
    """Bytes of one block of this model."""
    return config.n_layers * config.n_kv_heads * 2 * config.head_dim * BLOCK_SIZE * dtype.itemsize
