"""Runs kernel tests once per instruction set that this CPU supports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from branchwise import _C


@pytest.fixture(params=_C.supported_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The instruction set in use, restored afterwards."""
    before = _C.isa()
    _C._use_isa(request.param)
    yield request.param
    _C._use_isa(before)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Two threads, restored afterwards: tests may change the count."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Both element types of the kernels."""
    return request.param
