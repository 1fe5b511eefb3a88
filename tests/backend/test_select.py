"""Devices that cannot work are refused with one clear line."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import branchwise
from branchwise import assemble
from branchwise.api import Engine
from branchwise.backend.select import check_versions, open_backend
from branchwise.config import EngineConfig
from branchwise.errors import ConfigError, OutOfMemory
from small_device import SmallDevice


@pytest.fixture
def gpu(monkeypatch):
    """A machine with one Ampere card, as far as torch tells; tests change what it says."""

    def tell(**answers):
        for name, value in answers.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    tell(is_available=True, device_count=1, current_device=0, get_device_name="NVIDIA A100",
         get_device_capability=(8, 0))  # fmt: skip
    return tell


def refusal(device: str) -> str:
    with pytest.raises(ConfigError) as error:
        open_backend(device)
    return str(error.value)


def test_the_name_of_a_device():
    for device in ("auto", "cpu", "cuda", "cuda:3", "interpreter"):
        assert EngineConfig(device=device).device == device
    for device in ("gpu", "cuda:", "cuda:x", "CPU", "cuda:-1"):
        with pytest.raises(ConfigError, match="expected auto, cpu, cuda"):
            EngineConfig(device=device)


def test_auto_takes_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert open_backend("auto").name == "cpu"


def test_a_torch_without_cuda(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "this torch is built without CUDA" in refusal("cuda")


def test_no_card(gpu, monkeypatch):
    gpu(is_available=False)

    def init():
        raise RuntimeError("No CUDA GPUs are available")

    monkeypatch.setattr(torch.cuda, "init", init)
    assert "no usable NVIDIA GPU (No CUDA GPUs are available): check nvidia-smi" in refusal("cuda")


def test_an_old_driver(gpu, monkeypatch):
    gpu(is_available=False)

    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    monkeypatch.setattr(torch.cuda, "init", init)
    assert "the NVIDIA driver is too old for this torch" in refusal("cuda")


def test_a_card_that_is_not_there(gpu):
    assert refusal("cuda:7") == (
        "device='cuda:7': this machine has one GPU, cuda:0: choose from these, or use device='cpu'"
    )
    gpu(device_count=4)
    assert "this machine has 4 GPUs, cuda:0 to cuda:3" in refusal("cuda:4")


def test_an_old_card(gpu):
    gpu(get_device_capability=(7, 5), get_device_name="Tesla T4")
    assert "Tesla T4 has compute capability 7.5, the kernels need 8.0" in refusal("cuda:0")


def test_triton_is_missing(gpu, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'branchwise[gpu]'" in refusal("cuda")


def test_the_interpreter_needs_its_variable(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "TRITON_INTERPRET=1" in refusal("interpreter")


def test_the_cpu_never_loads_triton():
    code = (
        "import sys, branchwise; from branchwise.api import Engine; "
        "Engine(device='cpu', kv_memory=64 << 20).close(); "
        "assert not {'triton', 'branchwise_kernels'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_backends_name_the_device_library():
    root = Path(branchwise.__file__).parent
    named = {str(file.relative_to(root)) for file in root.rglob("*.py") if "torch.cuda" in file.read_text()}
    assert {name for name in named if not name.startswith("backend/")} <= {"cli/doctor.py"}  # which says what is there


@pytest.mark.parametrize(
    ("torch_version", "triton_version"),
    [("2.10.0+cu128", "3.6.0"), ("2.11.0+cu130", "3.6.0"), ("2.12.1", "3.7.0"), ("2.13.0+cpu", "3.9.0"),
     ("2.14.1", "3.8.0"), ("2.15.0+cu132", "3.9.0"), ("2.11.0a0+git1234", "3.6.0+git99")],
)  # fmt: skip
def test_versions_that_torch_pins(torch_version, triton_version):
    check_versions("cuda", torch_version, triton_version)


@pytest.mark.parametrize(
    ("torch_version", "triton_version", "said"),
    [
        ("2.9.1", "3.5.1", "this is Triton 3.5.1, the kernels are made for 3.6 to 3.9"),
        ("2.16.0", "3.10.0", "this is Triton 3.10.0, the kernels are made for 3.6 to 3.9"),
        ("2.9.1+cu126", "3.6.0", "this is torch 2.9.1+cu126, the GPU backend needs 2.10 or later"),
    ],
)
def test_other_versions_are_refused(torch_version, triton_version, said):
    with pytest.raises(ConfigError, match=said.replace(".", r"\.").replace("+", r"\+")):
        check_versions("cuda", torch_version, triton_version)


def test_the_name_of_the_prms_device():
    assert EngineConfig(prm_device="cuda:1").prm_device == "cuda:1"
    with pytest.raises(ConfigError, match="prm_device='gpu': expected auto, cpu"):
        EngineConfig(prm_device="gpu")


@pytest.mark.parametrize(
    ("answers", "wish", "said"),
    [
        ({}, "cuda:7", "this machine has one GPU, cuda:0: choose from these, or use prm_device='cpu'"),
        ({"get_device_capability": (7, 5)}, "cuda:0", "the kernels need 8.0 (Ampere) or later; use prm_device='cpu'"),
        ({"is_available": False, "init": None}, "cuda", "no usable NVIDIA GPU: check nvidia-smi, or use prm_device="),
        ({}, "interpreter", "needs TRITON_INTERPRET=1 in the environment before Python starts"),
    ],
)
def test_a_device_of_the_prm_that_cannot_work(gpu, answers, wish, said, monkeypatch):
    """The option is named that asks for it, before anything is loaded."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    gpu(**answers)
    with pytest.raises(ConfigError) as error:
        Engine(device="cpu", prm_device=wish)
    assert str(error.value).startswith(f"prm_device={wish!r}")
    assert said in str(error.value)


def test_an_engine_whose_prm_finds_no_room(monkeypatch):
    rooms = {"cuda:0": 4000 << 20, "cuda:1": 1 << 20}
    monkeypatch.setattr(assemble, "open_backend", lambda name, option="device": SmallDevice(rooms[name], name))
    said = r"\d+ \(policy\) MiB as bfloat16, 4,000 MiB are free on cuda:0; \d+ \(PRM\) MiB as bfloat16, 1 MiB are free"
    with pytest.raises(OutOfMemory, match=said):
        Engine(device="cuda:0", prm_device="cuda:1")
