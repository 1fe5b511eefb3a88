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

FIRST_SHARE = 0.125  # of what its branches take at the longest: what they are expected to, before any tree has ended
NEWEST = 0.125  # weight of the tree that ended last in that share


@dataclass(frozen=True, slots=True)
class KvDemand:
    """What a search may need of a KV cache at once, in tokens.

    branches    steps that grow, or wait for their siblings, at the same time
    paths       branches that go on when a level is over; each owns a path of its own, the others one step of it;
                0: nobody knows
    tokens      of a path without its prompt; step_tokens: of a step; steps: of a path, None: as many as there are
    """

    prompt: int
    branches: int
    paths: int
    tokens: int
    step_tokens: int
    steps: int | None

    def blocks(self, size: int) -> int:
        """Blocks of `size` slots at the longest; steps that nobody counts are taken to fill a block at least.

        Every step starts on a fresh block, so a path of T tokens in S steps fills at most T / size + S blocks. A step
        gets one block more than it has tokens for: a PRM may cut its text into more tokens than the policy wrote.
        """
        path, step = self._path(size), ceil(min(self.step_tokens, self.tokens) / size) + 1
        return self.prompt_blocks(size) + min(self.branches * path, self.paths * path + self.branches * step)

    def most_branches(self, size: int, n_blocks: int) -> int:
        """The most branches that fit, as many for each path as here; 0 when not even one does."""
        room, ratio = n_blocks - self.prompt_blocks(size), self.branches // self.paths
        return max(0, ratio * (room * self.branches // (ratio * (self.blocks(size) - self.prompt_blocks(size)))))

    def prompt_blocks(self, size: int) -> int:
        """Blocks of the prompt, with one to spare."""
        return ceil(self.prompt / size) + 1

    def _path(self, size: int) -> int:
        full = ceil(self.tokens / size)
        return full + min(full if self.steps is None else self.steps, self.tokens)


class KvFull(OutOfMemory):
    """Too few blocks are free."""


class KvCache:
    """KV tree, planner and pool of one model, and what trees were seen to hold of it.

    pool: [layer, block, kv_head, 2, kv_width]; how K and V lie in a block is the backend's affair
    kv_memory: bytes of this and other models' caches of as many blocks, which messages speak of; None: it is alone
    share: of the blocks that a tree's branches take at the longest, those that the last trees held, on average
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
        self.share = FIRST_SHARE
        self._kv_memory = n_blocks * self.block_slots * self.slot_bytes if kv_memory is None else kv_memory

    @property
    def free_blocks(self) -> int:
        """Blocks that nobody needs: free ones, and those of prefixes that are only kept."""
        return self.tree.n_free_blocks + self.prefixes.n_evictable

    def append(self, nodes: Sequence[int], counts: Sequence[int]) -> None:
        """Slots for `counts[i]` more tokens at the end of the open node `nodes[i]`: for all of them or for none.

        Kept prefixes that nobody needs make room. KvFull: there is not enough even so.
        """
        try:
            self._append(nodes, counts)
        except OutOfMemory:
            lengths, size = [self.tree.length(node) for node in nodes], self.block_slots
            ends = [length + count for length, count in zip(lengths, counts, strict=True)]
            need = sum(-(-end // size) - -(-length // size) for length, end in zip(lengths, ends, strict=True))
            if need > self.tree.n_free_blocks + self.prefixes.evict(need - self.tree.n_free_blocks):
                raise KvFull(
                    f"{need:,} more KV blocks are needed, {self.tree.n_free_blocks:,} of {self.n_blocks:,} are free, "
                    f"kv_memory is {self.size(self.n_blocks)}: raise it, or lower n, max_tokens or max_step_tokens"
                ) from None
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

    def lease(self, demand: KvDemand) -> Lease:
        """What a new tree is going to hold: nothing yet. OutOfMemory: its first steps alone never fit."""
        prompt = ceil(demand.prompt / self.block_slots)
        least, most = prompt + demand.branches, self.n_blocks - prompt
        if most < demand.branches:
            raise OutOfMemory(
                f"one problem needs kv_memory of {self.size(least)} to begin with, for a prompt of {demand.prompt:,} "
                f"tokens and {demand.branches:,} branches, it is {self.size(self.n_blocks)}: raise it, or "
                + (f"lower n: {most:,} is the most" if most > 0 else "shorten the prompt")
            )
        prompt = demand.prompt_blocks(self.block_slots)
        return Lease(self, prompt, demand.blocks(self.block_slots) - prompt if demand.paths else 0)

    def learn(self, share: float) -> None:
        """A tree has ended whose branches held such a share of what they might have."""
        self.share += NEWEST * (share - self.share)

    def size(self, n_blocks: int) -> str:
        """So many blocks in this and the other models' caches, for messages."""
        return f"{self._kv_memory * n_blocks / self.n_blocks / 2**20:,.1f} MiB"


@dataclass(slots=True, eq=False)
class Lease:
    """What one tree holds of a cache, in blocks.

    prompt: of the prompt    longest: of its branches, if all became as long as they may; 0: nobody knows
    """

    cache: KvCache
    prompt: int
    longest: int
    blocks: int = 0
    peak_blocks: int = 0
    tokens: int = 0
    peak_tokens: int = 0
    fed: int = 0  # tokens, ever
    fed_blocks: int = 0  # held when each of them was, in all

    def resize(self, before: int, after: int) -> None:
        """A step of the tree went from so many tokens in the KV to so many."""
        size, added = self.cache.block_slots, after - before
        self.tokens += added
        self.blocks += -(-after // size) + (-before // size)
        if added > 0:
            self.fed += added
            self.fed_blocks += self.blocks * added
            if self.tokens > self.peak_tokens:
                self.peak_tokens = self.tokens
            if self.blocks > self.peak_blocks:
                self.peak_blocks = self.blocks

    @property
    def expected(self) -> int:
        """Blocks that such a tree holds on average: trees are seldom at their peak together."""
        return self.prompt + ceil(self.cache.share * self.longest)

    def learn(self) -> None:
        """The tree has ended: the next ones are expected to be like it."""
        if self.longest and self.fed:
            self.cache.learn(min(1.0, max(0.0, self.fed_blocks / self.fed - self.prompt) / self.longest))


def block_bytes(config: DecoderConfig, dtype: torch.dtype, backend: Backend) -> int:
    """Bytes of one block of this model."""
    return config.n_layers * config.n_kv_heads * 2 * backend.kv_width(config.head_dim) * dtype.itemsize
