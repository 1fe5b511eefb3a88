"""The benchmark that is sent to people with a GPU works: its kernels in the interpreter, and as a command."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.__main__ import REL_L2, kernels, worst
from benchmarks.gpu.timing import Peaks

OPS = {
    "rms_norm", "add_rms_norm", "silu_mul", "gelu_mul", "rope_and_store", "tree_attention", "merge_states",
    "lm_head_sample", "step_state", "prm_head", "row_attention",
}  # fmt: skip
ROOT = Path(__file__).parents[2]


def test_every_kernel_is_right():
    records = list(kernels(torch.device("cpu"), True, Peaks(1.0, 1.0)))
    assert {record["name"].split()[0] for record in records} == OPS
    for record in records:
        assert record["right"], record
    assert set(REL_L2) == {torch.float32, torch.float16, torch.bfloat16}


def test_an_output_that_was_not_written_is_wrong():
    assert math.isnan(worst([0.0, float("nan")]))
    assert math.isnan(worst([float("nan"), 1.0]))
    assert worst([0.0, 2.0, 1.0]) == 2.0


@pytest.mark.slow
def test_the_command_writes_one_file(tmp_path):
    out = tmp_path / "result.jsonl"
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--out", str(out)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
    kinds = [json.loads(line)["kind"] for line in out.read_text().splitlines()]
    assert kinds[0] == "machine"
    assert {"peaks", "kernel", "decode", "search"} <= set(kinds)


def test_without_a_gpu_it_says_what_to_do(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path / "x")]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no GPU is usable here: run with --tiny" in done.stderr
