"""Which models a run has: by content, wherever they lie, and what their settings came to."""

from __future__ import annotations

import shutil

import pytest

from branchwise import _C, assemble
from branchwise.api import Engine
from branchwise.assets import asset_path
from branchwise.backend.cpu.backend import CpuBackend
from branchwise.cli import models
from branchwise.errors import CheckpointError
from branchwise.weights import hub
from small_device import SmallDevice


def test_a_model_of_the_hub_is_the_one_of_its_files_and_its_commit_is_said(tmp_path, monkeypatch):
    snapshot = tmp_path / "snapshots" / ("3f" * 20)
    shutil.copytree(asset_path("policy-small"), snapshot)
    monkeypatch.setattr(hub, "fetch_snapshot", lambda repo_id: snapshot)
    monkeypatch.chdir(tmp_path)
    content, place = models.identity("someone/small")
    assert place == f"someone/small@{'3f' * 20}"
    assert models.identity(str(snapshot)) == (content, str(snapshot))


def test_a_model_that_is_not_there_is_named():
    with pytest.raises(CheckpointError, match=r"no model at 'no-such\.gguf'"):
        models.identity("no-such.gguf")


def test_the_instruction_set_and_the_type_are_among_what_settings_came_to():
    with Engine(device="cpu", dtype="auto") as engine:
        found = models.resolved(engine)
    assert (found["device"], found["kernels"], found["dtype"]) == ("cpu", _C.isa(), "float32")
    assert not [name for name in found if name.startswith("prm")]


def test_a_prm_on_other_kernels_is_told_apart(monkeypatch):
    gpu = SmallDevice(4 << 30, "cuda:1")
    gpu.kernels = lambda: "NVIDIA A100"
    made = {"cpu": CpuBackend(), "cuda:1": gpu}
    monkeypatch.setattr(assemble, "open_backend", lambda name, option="device": made[name])
    with Engine(device="cpu", prm_device="cuda:1", kv_memory=64 << 20) as engine:
        found = models.resolved(engine)
    assert (found["device"], found["kernels"], found["dtype"]) == ("cpu", _C.isa(), "float32")
    assert (found["prm_device"], found["prm_kernels"], found["prm_dtype"]) == ("cuda", "NVIDIA A100", "bfloat16")
