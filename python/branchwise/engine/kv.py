"""The KV cache of one model: the tree that says who owns which block, and the pool that holds the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

import torch

from branchwise._C import KvTree
from branchwise.backend.base import Backend
from branchwise.engine.prefixes import PrefixCache
from branchwise.errors import OutOfMemory
from branchwise.models.config import DecoderConfig


@dataclass(frozen=True, slots=True)
class KvDemand:
    """What a search may need of a KV cache at once, in tokens.

    branches    steps that grow, or wait for their siblings, at the same time
    paths       branches that go on when a level is over; each owns a path of its own, the others one step of it
    tokens      of a path without its prompt; step_tokens: of a step; steps: of a path
    """

    prompt: int
    branches: int
    paths: int
    tokens: int
    step_tokens: int
    steps: int

    def blocks(self, size: int) -> int:
        """Blocks of `size` slots in the worst case.

        Every step starts on a fresh block, so a path of T tokens in S steps fills at most T / size + S blocks. A step
        gets one block more than it has tokens for: a PRM may cut its text into more tokens than the policy wrote.
        """
        path, step = self._path(size), ceil(min(self.step_tokens, self.tokens) / size) + 1
        return self._prompt(size) + min(self.branches * path, self.paths * path + self.branches * step)

    def most_branches(self, size: int, n_blocks: int) -> int:
        """The most branches that fit, as many for each path as here; 0 when not even one does."""
        room, ratio = n_blocks - self._prompt(size), self.branches // self.paths
        return max(0, ratio * (room * self.branches // (ratio * (self.blocks(size) - self._prompt(size)))))

    def _prompt(self, size: int) -> int:
        return ceil(self.prompt / size) + 1

    def _path(self, size: int) -> int:
        return ceil(self.tokens / size) + min(self.steps, self.tokens)


class KvCache:
    """KV tree, planner and pool of one model, plus the blocks that admitted problems have been promised.

    pool: [layer, block, kv_head, 2, kv_width]; how K and V lie in a block is the backend's affair
    kv_memory: bytes of this and other models' caches of as many blocks, which messages speak of; None: it is alone
    """

    def __init__(
        self, config: DecoderConfig, n_blocks: int, dtype: torch.dtype, backend: Backend, kv_memory: int | None = None
    ) -> None:
        self.block_slots = backend.block_slots
        self.tree = KvTree(n_blocks, self.block_slots)
        self.planner = backend.planner(self.tree)
        self.prefixes = PrefixCache(self.tree, self.planner.chunk_slots)
        self.pool = backend.kv_pool(config.n_layers, n_blocks, config.n_kv_heads, config.head_dim, dtype)
        self.layers = list(self.pool)  # views of it, made once
        self.slot_bytes = block_bytes(config, dtype, backend) // backend.block_slots
        self.n_blocks = n_blocks
        self.n_reserved = 0
        self._kv_memory = n_blocks * self.block_slots * self.slot_bytes if kv_memory is None else kv_memory

    @property
    def free_blocks(self) -> int:
        """Blocks that nobody needs: free ones, and those of prefixes that are only kept."""
        return self.tree.n_free_blocks + self.prefixes.n_evictable

    def append(self, nodes: Sequence[int], counts: Sequence[int]) -> None:
        """Slots for `counts[i]` more tokens at the end of the open node `nodes[i]`: for all of them or for none.

        Kept prefixes that nobody needs make room. OutOfMemory: there is not enough even so.
        """
        try:
            self._append(nodes, counts)
        except OutOfMemory:
            lengths, size = [self.tree.length(node) for node in nodes], self.block_slots
            ends = [length + count for length, count in zip(lengths, counts, strict=True)]
            need = sum(-(-end // size) - -(-length // size) for length, end in zip(lengths, ends, strict=True))
            if not self.prefixes.evict(need - self.tree.n_free_blocks):
                raise
            self._append(nodes, counts)

    def _append(self, nodes: Sequence[int], counts: Sequence[int]) -> None:
        for done, (node, count) in enumerate(zip(nodes, counts, strict=True)):
            try:
                self.tree.append(node, count)
            except OutOfMemory:
                self.take_back(nodes[:done], counts[:done])
                raise

    @contextmanager
    def or_take_back(self, nodes: Sequence[int], counts: Sequence[int]) -> Iterator[None]:
        """What was appended stays unless something is raised inside."""
        try:
            yield
        except BaseException:
            self.take_back(nodes, counts)
            raise

    def take_back(self, nodes: Sequence[int], counts: Sequence[int]) -> None:
        """The last slots of open nodes are free again."""
        for node, count in zip(nodes, counts, strict=True):
            self.tree.truncate(node, self.tree.length(node) - count)

    def reserve(self, demand: KvDemand) -> int | None:
        """Promise what a search needs: the blocks, for `release`, or None while others hold too many.

        OutOfMemory when it can never be promised; it names the largest n.
        """
        n_blocks = demand.blocks(self.block_slots)
        if n_blocks > self.n_blocks:
            need, have = ceil(self._kv_memory * n_blocks / self.n_blocks), self._kv_memory
            most = demand.most_branches(self.block_slots, self.n_blocks)
            raise OutOfMemory(
                f"one problem needs kv_memory of about {need / 2**20:,.1f} MiB, it is {have / 2**20:,.1f} MiB: "
                + (f"raise it, lower max_tokens, or n: {most} is the most" if most else "raise it, or lower max_tokens")
            )
        if self.n_reserved + n_blocks > self.n_blocks:
            return None
        self.n_reserved += n_blocks
        return n_blocks

    def release(self, n_blocks: int) -> None:
        """Give promised blocks back."""
        self.n_reserved -= n_blocks


def block_bytes(config: DecoderConfig, dtype: torch.dtype, backend: Backend) -> int:
    """Bytes of one block of this model."""
    return config.n_layers * config.n_kv_heads * 2 * backend.kv_width(config.head_dim) * dtype.itemsize
