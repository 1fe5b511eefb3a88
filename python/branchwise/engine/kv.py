"""The KV cache of one model: the tree that says who owns which block, and the pool that holds the numbers."""

from __future__ import annotations

from math import ceil

import torch

from branchwise._C import KvTree
from branchwise.backend.base import Backend
from branchwise.backend.cpu import CpuBackend
from branchwise.errors import OutOfMemory
from branchwise.models.families import DecoderConfig


class KvCache:
    """KV tree, planner and pool of one model, plus the blocks that admitted problems have been promised.

    pool: [layer, block, kv_head, 2, kv_width]; how K and V lie in a block is the backend's affair
    """

    def __init__(
        self, config: DecoderConfig, n_blocks: int, dtype: torch.dtype, backend: Backend | None = None
    ) -> None:
        backend = CpuBackend() if backend is None else backend
        self.block_slots = backend.block_slots
        self.tree = KvTree(n_blocks, self.block_slots)
        self.planner = backend.planner(self.tree)
        self.pool = backend.kv_pool(config.n_layers, n_blocks, config.n_kv_heads, config.head_dim, dtype)
        self.layers = list(self.pool)  # views of it, made once
        self.slot_bytes = block_bytes(config, dtype, backend) // backend.block_slots
        self.n_blocks = n_blocks
        self.n_reserved = 0

    def can_reserve(self, n_blocks: int, most_branches: int) -> bool:
        """Whether so many blocks can be promised now. OutOfMemory when they never can; it names the largest n."""
        if n_blocks > self.n_blocks:
            need, have = (count * self.block_slots * self.slot_bytes / 2**20 for count in (n_blocks, self.n_blocks))
            raise OutOfMemory(
                f"one problem needs up to {need:.0f} MiB of KV, the budget is {have:.0f} MiB: "
                f"n={most_branches} is the most that fits; raise kv_memory, or lower n or max_tokens"
            )
        return self.n_reserved + n_blocks <= self.n_blocks

    def reserve(self, n_blocks: int) -> None:
        """Promise blocks; the caller asked `can_reserve` and gives them back with `release`."""
        self.n_reserved += n_blocks

    def release(self, n_blocks: int) -> None:
        """Give promised blocks back."""
        self.n_reserved -= n_blocks

    def worst_case_blocks(self, prompt_tokens: int, branches: int, tokens: int, steps: int) -> int:
        """Blocks that `branches` paths of `tokens` tokens in at most `steps` steps can fill after one shared prompt.

        Every step starts on a fresh block, so a path of T tokens in S steps fills at most T / block_slots + S blocks.
        """
        steps = min(steps, tokens)
        size = self.block_slots
        return ceil(prompt_tokens / size) + 1 + branches * (ceil(tokens / size) + steps)

    def most_branches(self, prompt_tokens: int, tokens: int, steps: int) -> int:
        """The most branches whose worst case fits into the whole cache; 0 when not even one does."""
        prompt = self.worst_case_blocks(prompt_tokens, 0, tokens, steps)
        each = self.worst_case_blocks(prompt_tokens, 1, tokens, steps) - prompt
        return max(0, (self.n_blocks - prompt) // each)


def block_bytes(config: DecoderConfig, dtype: torch.dtype, backend: Backend) -> int:
    """Bytes of one block of this model."""
    return config.n_layers * config.n_kv_heads * 2 * backend.kv_width(config.head_dim) * dtype.itemsize
