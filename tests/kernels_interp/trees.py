"""Trees of random KV in pages of 64 slots, and a float64 reference that knows nothing of plans."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from branchwise import _C
from branchwise_kernels.layout import PAGE, DevicePlan, plan_from
from kernels.trees import Tree


class PagedTree(Tree):
    """A `Tree` whose KV also lies in a pool as the Triton kernels read it. Slots never written hold NaN."""

    def __init__(self, n_pages: int, n_kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
        self.cache = _C.KvTree(n_pages, PAGE)
        self.n_kv_heads, self.head_dim, self.dtype = n_kv_heads, head_dim, dtype
        self.pool = torch.full((n_pages, n_kv_heads, 2, PAGE, head_dim), float("nan"), dtype=dtype)
        self.kv: dict[int, Tensor] = {}

    def grow(self, parent: int | None, length: int, seal: bool = True) -> int:
        """Add a node of random tokens under `parent` (None: a root)."""
        node: int = self.cache.add_root() if parent is None else self.cache.fork(parent, 1)[0]
        if length:
            self.cache.append(node, length)
        if seal:
            self.cache.seal(node)
        self.kv[node] = torch.randn(2, self.n_kv_heads, length, self.head_dim).to(self.dtype)
        for index, page in enumerate(self.cache.blocks(node)):
            part = self.kv[node][:, :, index * PAGE : (index + 1) * PAGE]
            self.pool[page, :, :, : part.shape[2]] = part.transpose(0, 1)
        return node

    def device_plan(self, host: _C.AttentionPlan, n_heads: int) -> DevicePlan:
        """The plan in buffers that just hold it."""
        return plan_from(host, n_heads // self.n_kv_heads, torch.device("cpu"))


def rows_of(nodes: list[int], rng: np.random.Generator, limit: int, tree: PagedTree) -> list[int]:
    """How many rows each node feeds: 1 mostly, sometimes more."""
    return [int(min(rng.choice([1, 1, 3, limit]), tree.cache.length(node))) for node in nodes]
