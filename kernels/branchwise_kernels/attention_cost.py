"""Which attention moves fewer bytes: shared segments with partials, or every row on its own.

tree: slots of all items, once per query tile, + partials written and read (D + 2 numbers a head) + output
rows: slots of every row's path + output
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from branchwise_kernels.layout import SMALL_TILE, appends, large_tile
from branchwise_kernels.runs import KEY_COUNT, ROW_COUNT, cut_items, row_runs


@dataclass(frozen=True)
class AttentionBytes:
    """Bytes of one layer; queries and output, the same for both, are left out."""

    tree_kv: int
    tree_partials: int
    rows: int

    @property
    def tree(self) -> int:
        """KV and partials."""
        return self.tree_kv + self.tree_partials


def partial_bytes(n_heads: int, head_dim: int) -> int:
    """Of a row's partial in fp32: output, maximum and sum of every head."""
    return n_heads * (head_dim + 2) * 4


def attention_bytes(
    plan: Any, n_heads: int, n_kv_heads: int, head_dim: int, itemsize: int, most: int | None = None
) -> AttentionBytes:
    """plan: the C++ `AttentionPlan`    itemsize: bytes of a number in the pool    most: partials of a run of rows."""
    items, _ = cut_items(plan, row_runs(plan, most))
    queries = items[:, ROW_COUNT] * (n_heads // n_kv_heads)
    tiles = np.where(queries <= SMALL_TILE, 1, -(-queries // large_tile(head_dim, itemsize, appends(plan))))
    slot = 2 * n_kv_heads * head_dim * itemsize
    return AttentionBytes(
        tree_kv=int((items[:, KEY_COUNT].astype(np.int64) * tiles).sum()) * slot,
        tree_partials=2 * plan.n_partials * partial_bytes(n_heads, head_dim),
        rows=plan.kv_slots_unshared * slot,
    )
