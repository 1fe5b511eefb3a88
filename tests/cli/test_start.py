"""The command line starts fast: no torch, no model code, under half a second to its help."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def processor_seconds(*words: str) -> float:
    """User and system time of a process: unlike wall time, it does not count what else the machine does."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        " used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime)"
    )
    done = run("-c", code, sys.executable, *words)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def test_help_takes_little_more_than_its_library():
    """As a ratio: a slow machine takes half a second for the help, and three seconds to import torch."""
    library, help_ = (min(processor_seconds(*words) for _ in range(3)) for words in
                      (("-c", "import typer"), ("-m", "branchwise", "--help")))  # fmt: skip
    assert help_ < 6 * library


@pytest.mark.parametrize("module", ["branchwise", "branchwise.cli", "branchwise.cli.options"])
def test_importing_loads_nothing_heavy(module):
    heavy = ("torch", "numpy", "transformers", "tokenizers", "huggingface_hub", "sympy", "branchwise._C")
    done = run("-c", f"import {module}, sys; print([name for name in {heavy!r} if name in sys.modules])")
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("words", [(), ("solve",), ("eval",), ("votes",), ("demo",), ("doctor",)])
def test_help_of_every_command_says_what_it_does(command, words):
    done = command(*words, "--help")
    assert done.code == 0
    assert "Usage: branchwise" in done.out
    assert ("Example" if words else "Start with: branchwise demo") in done.out


def test_no_command_at_all_shows_the_help(command):
    done = command()
    assert done.code == 2
    assert "Usage: branchwise" in done.out + done.err


def test_python_m_is_the_command_line():
    began = time.monotonic()
    done = run("-m", "branchwise", "solve", "", "--json")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: the question is empty")
    assert time.monotonic() - began < 30
