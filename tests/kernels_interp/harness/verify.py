"""The one way in which every kernel is tested."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kernels_interp.harness.guard import Guard
from kernels_interp.harness.order import Permuted
from tolerances import KERNEL_REL_L2

ORDERS = 3
WORST: dict[torch.dtype, float] = {}
"""The largest relative L2 error that this run has seen, by dtype."""


def poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    """A tensor that no kernel may leave as it is: NaN, or a number that nothing computes."""
    return torch.full(shape, float("nan") if dtype.is_floating_point else -77, dtype=dtype)


def rel_l2(got: Tensor, wanted: Tensor) -> float:
    """|got - wanted| / |wanted|; NaN if either holds one."""
    return float((got.double() - wanted.double()).norm() / wanted.double().norm().clamp_min(1e-30))


def verify(
    run: Callable[[], Sequence[Tensor]], wanted: Sequence[Tensor], dtype: torch.dtype, races: bool = True
) -> None:
    """`run` makes fresh outputs, launches, returns them: they must be right, and the same in any order of programs."""
    with Guard(races):
        first = run()
    for i, (got, want) in enumerate(zip(first, wanted, strict=True)):
        if want.dtype.is_floating_point:
            error = rel_l2(got, want)
            WORST[dtype] = max(error, WORST.get(dtype, 0.0))
            assert error <= KERNEL_REL_L2[dtype], f"output {i}: relative L2 error {error:.2e}"
        else:
            assert torch.equal(got.to(want.dtype), want), f"output {i}"
    for seed in range(ORDERS):
        with Permuted(seed):
            again = run()
        for i, (a, b) in enumerate(zip(first, again, strict=True)):
            assert torch.equal(a, b), f"output {i} depends on the order of programs"
