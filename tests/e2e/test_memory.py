"""What a loaded engine takes: its weights, its KV budget and little else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SLACK_BYTES = 400 << 20  # Python, torch, tokenizer tables, the KV of one iteration
PROGRAM = """
import json, sys
import branchwise as bw
from branchwise.weights import open_checkpoint
import torch

path, kv = sys.argv[1], int(sys.argv[2])
engine = bw.Engine(path, dtype="bfloat16", kv_memory=kv, max_tokens=64)
engine.solve("Say something.", "majority", n=4)
checkpoint = open_checkpoint(path)
weights = sum(2 * torch.Size(checkpoint.shape(name)).numel() for name in checkpoint.names())
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"peak": peak, "weights": weights}))
"""


@pytest.mark.model
@pytest.mark.parametrize(
    "name",
    [
        "smollm2-135m-instruct-q4_1",
        pytest.param("gemma-3-270m-q4_k_m", marks=pytest.mark.slow),
        pytest.param("qwen2.5-coder-0.5b-instruct-q4_k_m", marks=pytest.mark.slow),
    ],
)
def test_peak_memory(models_dir: Path, name: str) -> None:
    path = models_dir / f"{name}.gguf"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    if not Path("/proc/self/status").exists():
        pytest.skip("the kernel does not report peak memory here")
    kv = 256 << 20
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(path), str(kv)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["peak"] <= measured["weights"] + kv + SLACK_BYTES
