"""Kernels in Triton's interpreter, on CPU tensors. The interpreter and the compiler cannot share a process."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    raise pytest.UsageError(
        "kernels_interp needs a run of its own: TRITON_INTERPRET=1 python -m pytest tests/kernels_interp"
    )

from benchmarks.gpu import quick
from kernels_interp.harness import bfloat16
from kernels_interp.harness.verify import WORST
from tolerances import KERNEL_REL_L2

bfloat16.install()
quick.install()

np.seterr(over="ignore")  # e^x may overflow to infinity, as on the GPU; NaN out of nowhere stays an error


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how close the kernels come to what they may differ by."""
    for dtype, error in WORST.items():
        name = str(dtype).removeprefix("torch.")
        terminalreporter.write_line(f"worst relative L2 error in {name}: {error:.1e} of {KERNEL_REL_L2[dtype]:.0e}")


DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Every dtype that kernels take."""
    chosen: torch.dtype = request.param
    return chosen


@pytest.fixture
def rng() -> torch.Generator:
    """The same numbers in every run."""
    return torch.Generator().manual_seed(7)
