"""Fixtures that several suites share: where the real models are, and a small thread count."""

from __future__ import annotations

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from hypothesis import settings

# Waiting threads go to sleep soon: on a busy machine OpenMP's spinning would cost more than the work.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

# Another build of the extension, such as one that emulates processors (`make cpp-test`).
if extension := os.environ.get("BRANCHWISE_TEST_EXTENSION"):
    spec = spec_from_file_location("branchwise._C", extension)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["branchwise._C"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)

# A deadline per example says more about what else the machine does than about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """Folder of real GGUF models; tests that need one skip where it is absent."""
    folder = Path(os.environ.get("BRANCHWISE_MODELS", Path.home() / ".cache" / "branchwise-models"))
    if not folder.is_dir():
        pytest.skip(f"real models are not in {folder}: set BRANCHWISE_MODELS to a folder with the GGUF files")
    return folder
