"""The instruction set is chosen once, and a wrong override fails loudly."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from branchwise import _C

PROBE = "import torch; from branchwise import _C; print(_C.isa())"


def probe(override: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "BRANCHWISE_CPU_ISA": override}
    return subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["generic", _C.supported_isas()[-1]])
def test_override_is_obeyed(name: str) -> None:
    assert probe(name).stdout.strip() == name


def test_unknown_override_names_given_known_and_supported() -> None:
    result = probe("avx3")
    assert result.returncode != 0
    message = result.stderr.strip().splitlines()[-1]
    assert "BRANCHWISE_CPU_ISA is 'avx3'" in message
    assert "generic, avx2, avx512, avx512_bf16, amx" in message
    assert f"this CPU supports {', '.join(_C.supported_isas())}" in message


def test_generic_is_always_supported() -> None:
    assert _C.supported_isas()[0] == "generic"


def test_unknown_choice() -> None:
    with pytest.raises(ValueError, match="'sse9', which is unknown"):
        _C._use_isa("sse9")
