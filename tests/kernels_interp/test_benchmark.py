"""The check that is run where there is a GPU works: its stages in the interpreter, as one command, and with faults."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.__main__ import check
from benchmarks.gpu.kernels import REL_L2, worst
from benchmarks.gpu.stages import STAGES, Bench, Stage
from kernels_interp.faults import PLANTED

OPS = {
    "rms_norm", "add_rms_norm", "silu_mul", "gelu_mul", "rope_and_store", "tree_attention", "merge_states",
    "lm_head_sample", "step_state", "prm_head", "row_attention",
}  # fmt: skip
ROOT = Path(__file__).parents[2]
SECONDS = 90.0  # that the whole command may take here
PATHS = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]  # where another torch may come first
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(PATHS)}


def command(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *args], env=ENVIRONMENT | environment, cwd=ROOT, capture_output=True,
        text=True, check=False,
    )  # fmt: skip


def test_every_stage_passes(tmp_path):
    done = command("--tiny", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    ends = {each["stage"]: each for each in records if each["kind"] == "stage"}
    assert list(ends) == [stage.name for stage in STAGES]
    assert {name for name, end in ends.items() if end["state"] != "passed"} == {"vllm"}
    assert ends["vllm"]["state"] == "skipped"
    assert {each["name"].split()[0] for each in records if each["kind"] == "kernel"} == OPS
    assert all(each.get("right", True) for each in records)
    kinds = {each["kind"] for each in records}
    assert kinds >= {"machine", "peaks", "tokens", "replay", "samples", "opening", "prm", "search", "life"}
    assert "all 8 stages that ran passed" in (tmp_path / "summary.txt").read_text()
    assert sum(end["seconds"] for end in ends.values()) <= SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PLANTED))
def test_a_planted_fault_is_that_stages_failure(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*PATHS, str(ROOT / "tests")]))
    function, state, said = PLANTED[name]
    faulty = next(stage for stage in STAGES if stage.name == name)
    limit = 8.0 if state == "killed" else 240.0
    faulty = replace(faulty, work=f"kernels_interp.faults:{function}", seconds=limit)
    other = Stage("other", 60, "benchmarks.gpu.openings:openings", "another stage")
    first, second = check([faulty, other], Bench(True), 8.0, tmp_path)
    assert first.state == state
    assert said in first.why
    assert second.state == "passed"
    assert f"FAILED: {name}\n" in (tmp_path / "summary.txt").read_text()


def test_what_a_killed_stage_reported_is_kept(tmp_path):
    stage = Stage("slow", 2, "kernels_interp.faults:hang", "never ends")
    (outcome,) = check([stage], Bench(True), 8.0, tmp_path)
    assert outcome.state == "killed"
    assert outcome.seconds < 30
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert kinds == ["replay", "stage"]


def test_an_output_that_was_not_written_is_wrong():
    assert math.isnan(worst([0.0, float("nan")]))
    assert math.isnan(worst([float("nan"), 1.0]))
    assert worst([0.0, 2.0, 1.0]) == 2.0
    assert set(REL_L2) == {torch.float32, torch.float16, torch.bfloat16}


@pytest.mark.parametrize(
    ("args", "interpret", "said"),
    [
        (("--stages", "kernels,nosuch"), "1", "there is no stage 'nosuch'; known are machine, kernels"),
        (("--minutes", "0"), "1", "--minutes 0.0: expected more than 0"),
        (("--tiny",), "", "set TRITON_INTERPRET=1"),
        ((), "1", "unset it, or add --tiny"),
    ],
)
def test_bad_arguments(args, interpret, said, tmp_path):
    done = command(*args, "--out", str(tmp_path / "x"), TRITON_INTERPRET=interpret)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_without_a_gpu_it_says_what_to_do(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = command("--out", str(tmp_path / "x"), TRITON_INTERPRET="")
    assert done.returncode == 1
    assert "run with --tiny and TRITON_INTERPRET=1" in done.stderr
