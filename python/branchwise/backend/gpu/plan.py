"""The attention plan on the device, with the partial results that its items write."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from branchwise._C import AttentionPlan
from branchwise.backend.base import AttentionPath, AttentionShape
from branchwise.backend.gpu.scratch import Scratch
from branchwise_kernels.attention_cost import attention_bytes, partial_bytes
from branchwise_kernels.layout import DevicePlan, PlanSize, empty_plan, plan_from
from branchwise_kernels.merge_states import merge_states
from branchwise_kernels.row_attention import row_attention
from branchwise_kernels.tree_attention import tree_attention

PARTIALS_BYTES = 64 << 20  # that partials may take: a PRM pass of 500 rows at depth 20 would take 150 MB


def most_partials(shape: AttentionShape) -> int:
    """Partials of a run of rows."""
    return max(1, PARTIALS_BYTES // partial_bytes(shape.n_heads, shape.head_dim))


def cheaper_path(plan: AttentionPlan, shape: AttentionShape) -> AttentionPath:
    """Shared segments or every row on its own, whichever moves fewer bytes."""
    itemsize = 2  # KV is half precision where speed counts
    cost = attention_bytes(plan, shape.n_heads, shape.n_kv_heads, shape.head_dim, itemsize)
    return "rows" if cost.rows < cost.tree else "tree"


class TritonPlan:
    """A `DevicePlan`, the path that attention takes over it, and memory for the partials of a run, fp32.

    last_rows: [feeds] int64, the last row of each feed; None where every feed is one row
    """

    def __init__(
        self, arrays: DevicePlan, shape: AttentionShape, path: AttentionPath, scratch: Scratch,
        last_rows: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.arrays = arrays
        self.path = path
        self.last_rows = last_rows
        self.n_heads = shape.n_heads
        partials = arrays.run_partials if path == "tree" else 0
        self.partial_out = scratch.take("partial_out", (partials, shape.n_heads, shape.head_dim))
        self.partial_max = scratch.take("partial_max", (partials, shape.n_heads))
        self.partial_sum = scratch.take("partial_sum", (partials, shape.n_heads))

    @classmethod
    def exact(cls, plan: AttentionPlan, shape: AttentionShape, scratch: Scratch) -> TritonPlan:
        """Buffers just large enough for one plan; the partials' come from `scratch`."""
        last_rows, path = None, cheaper_path(plan, shape)
        if len(plan.last_rows) < plan.n_rows:
            last_rows = torch.from_numpy(plan.last_rows.astype(np.int64)).to(scratch.device)
        most = most_partials(shape) if path == "tree" else None
        return cls(plan_from(plan, shape.group, scratch.device, most), shape, path, scratch, last_rows)

    @classmethod
    def empty(cls, size: PlanSize, shape: AttentionShape, path: AttentionPath, scratch: Scratch) -> TritonPlan:
        """Buffers for plans of decode rows, up to a size; the partials' come from `scratch`."""
        return cls(empty_plan(size, scratch.device), shape, path, scratch)

    def attend(self, query: Tensor, kv_layer: Tensor, out: Tensor, scale: float, window: int, softcap: float) -> None:
        """query, out: [rows, n_heads * head_dim]."""
        if self.path == "rows":
            row_attention(query, kv_layer, self.arrays, out, self.n_heads, scale, window, softcap)
            return
        parts = self.partial_out, self.partial_max, self.partial_sum
        for run in range(len(self.arrays.items)):
            tree_attention(query, kv_layer, self.arrays, *parts, self.n_heads, scale, window, softcap, run)
            merge_states(*parts, self.arrays, out, run)
