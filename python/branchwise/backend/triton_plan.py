"""The attention plan on the device, with the partial results that its items write."""

from __future__ import annotations

import torch
from torch import Tensor

from branchwise._C import AttentionPlan
from branchwise.backend.base import AttentionShape
from branchwise_kernels.layout import DevicePlan, plan_from
from branchwise_kernels.merge_states import merge_states
from branchwise_kernels.tree_attention import tree_attention


class TritonPlan:
    """A `DevicePlan` and its scratch memory: one (o, m, d) per row of each work item and head, fp32."""

    def __init__(self, arrays: DevicePlan, shape: AttentionShape, partials: int) -> None:
        self.arrays = arrays
        self.n_heads = shape.n_heads
        device = arrays.positions.device
        self.partial_out = torch.empty(partials, shape.n_heads, shape.head_dim, device=device)
        self.partial_max = torch.empty(partials, shape.n_heads, device=device)
        self.partial_sum = torch.empty(partials, shape.n_heads, device=device)

    @classmethod
    def exact(cls, plan: AttentionPlan, shape: AttentionShape, device: torch.device) -> TritonPlan:
        """Buffers just large enough for one plan."""
        group = shape.n_heads // shape.n_kv_heads
        return cls(plan_from(plan, group, device), shape, plan.n_partials)

    def attend(self, query: Tensor, kv_layer: Tensor, out: Tensor, scale: float, window: int, softcap: float) -> None:
        """Every item's partials, then every row's sum of them; query, out: [rows, n_heads * head_dim]."""
        parts = self.partial_out, self.partial_max, self.partial_sum
        tree_attention(query, kv_layer, self.arrays, *parts, self.n_heads, scale, window, softcap)
        merge_states(*parts, self.arrays, out)
