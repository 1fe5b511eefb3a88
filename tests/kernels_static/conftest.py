"""Kernels as compiled for GPUs that are not here. The compiler and the interpreter cannot share a process."""

from __future__ import annotations

import os

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    raise pytest.UsageError(
        "kernels_static needs a run of its own, TRITON_INTERPRET unset: python -m pytest tests/kernels_static"
    )
