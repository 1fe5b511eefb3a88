"""The GPU backend with the twins of its kernels: all of its work on the host, in plain torch on the CPU, quickly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from branchwise.backend.gpu import backend, loop, plan, sampler
from branchwise.backend.gpu.backend import TritonBackend
from branchwise_kernels import reference
from branchwise_kernels.layout import DevicePlan


def unseen(twin: Callable[..., None]) -> Callable[..., None]:
    """A kernel allocates nothing, so no `TorchDispatchMode` shall see what its twin does."""

    def call(*args: Any, **kwargs: Any) -> None:
        with _disable_current_modes():
            twin(*args, **kwargs)

    return call


class TwinBackend(TritonBackend):
    """To be made after `install`."""

    name = "twins"

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))

    rms_norm = staticmethod(unseen(reference.rms_norm))
    add_rms_norm = staticmethod(unseen(reference.add_rms_norm))


def install(patch: pytest.MonkeyPatch) -> None:
    """Put the twins where the backend calls kernels."""
    for module, name in (
        (backend, "silu_mul"), (backend, "gelu_mul"), (backend, "prm_head"), (backend, "rope_and_store"),
        (plan, "tree_attention"), (plan, "merge_states"), (sampler, "lm_head_sample"), (loop, "step_state"),
    ):  # fmt: skip
        patch.setattr(module, name, unseen(getattr(reference, name)))
    patch.setattr(plan, "row_attention", unseen(row_attention))


def row_attention(
    q: Tensor, kv: Tensor, plan: DevicePlan, out: Tensor, n_heads: int, scale: float, window: int, softcap: float,
) -> None:  # fmt: skip
    """The same as over shared segments."""
    partials = len(plan.row_partials)
    parts: Any = [torch.empty(partials, n_heads, size).squeeze(-1) for size in (kv.shape[-1], 1, 1)]
    reference.tree_attention(q, kv, plan, *parts, n_heads, scale, window, softcap)
    reference.merge_states(*parts, plan, out)
