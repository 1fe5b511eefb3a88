"""Builds the C++ tests of the core under AddressSanitizer and UBSan, as `make cpp-test` does, and runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "cpp"


def tool(name: str) -> str:
    path = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if path is None:
        pytest.skip(f"{name} is not installed: pip install branchwise[test]")
    return path


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_cpp():
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    cmake, ctest, ninja = tool("cmake"), tool("ctest"), tool("ninja")
    options = [f"-DBRANCHWISE_{name}" for name in ("PYTHON=OFF", "TESTS=ON", "SANITIZE=ON")]
    run(cmake, "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", *options)
    run(cmake, "--build", str(BUILD))
    out = run(ctest, "--test-dir", str(BUILD), "--output-on-failure")
    assert out.count("Passed") == len(list(Path(__file__).parent.glob("*_test.cpp")))
