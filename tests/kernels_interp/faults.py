"""The stages of `benchmarks.gpu` with a fault planted in each: what they must find, report and survive."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import cases, decode, kernels, life, openings, prm, rival, search, tokens
from benchmarks.gpu.stages import Bench, Record


def no_extension(bench: Bench) -> Iterator[Record]:
    """The extension is not there."""
    for name in [each for each in sys.modules if each.startswith("branchwise")]:
        del sys.modules[name]
    sys.modules["branchwise._C"] = None  # type: ignore[assignment]
    from benchmarks.gpu import machine

    return machine.machine(bench)


def wrong_kernel(bench: Bench) -> Iterator[Record]:
    """One of the kernels leaves the end of its output as it was."""
    silu_mul = cases.silu_mul

    def partly(gate_up: torch.Tensor, out: torch.Tensor) -> None:
        kept = out[-1].clone()
        silu_mul(gate_up, out)
        out[-1] = kept

    cases.silu_mul = partly
    return kernels.kernels(bench)


def other_tokens(bench: Bench) -> Iterator[Record]:
    """The device's sampler draws the word beside the one that it should."""
    from branchwise.backend.gpu.sampler import TritonSampler

    draw = TritonSampler.draw

    def beside(self: TritonSampler, *args: Any) -> Any:
        drawn = draw(self, *args)
        return drawn._replace(ids=np.maximum(drawn.ids - 1, 0))

    TritonSampler.draw = beside  # type: ignore[method-assign]
    return tokens.tokens(bench)


def hang(bench: Bench) -> Iterator[Record]:
    """A kernel never comes back."""
    yield {"kind": "replay", "model": "tiny", "rows": 1}
    time.sleep(3600)
    yield from decode.decode(bench)


def crash(bench: Bench) -> Iterator[Record]:
    """As of an illegal access that the driver does not survive."""
    openings.both = lambda *_: os.abort()  # type: ignore[assignment]
    return openings.openings(bench)


def out_of_memory(bench: Bench) -> Iterator[Record]:
    """The device has none left."""
    from branchwise.errors import OutOfMemory

    def full(*_: Any) -> float:
        raise OutOfMemory("the device is full: lower kv_memory")

    prm.pass_seconds = full  # type: ignore[assignment]
    return prm.prm(bench)


def lost_branch(bench: Bench) -> Iterator[Record]:
    """A search loses one of its branches."""
    solve = search.solve

    def short(*args: Any) -> list[Any]:
        results = solve(*args)
        results[0].candidates.pop()
        return results

    search.solve = short  # type: ignore[assignment]
    return search.search(bench)


KEPT: list[torch.Tensor] = []


def leak(bench: Bench) -> Iterator[Record]:
    """Every engine leaves memory behind."""
    held_bytes = life.held_bytes

    def leaking(bench: Bench) -> int:
        KEPT.append(torch.zeros(2 * life.SLACK // 4))
        return held_bytes(bench)

    life.held_bytes = leaking
    return life.life(bench)


def broken_vllm(bench: Bench) -> Iterator[Record]:
    """vLLM is installed and fails."""
    import importlib.machinery

    class LLM:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("vLLM found no device")

    module = ModuleType("vllm")
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams = LLM, dict  # type: ignore[attr-defined]
    sys.modules["vllm"] = module
    return rival.vllm(bench)


PLANTED = {
    "machine": ("no_extension", "failed", "_C"),
    "kernels": ("wrong_kernel", "failed", "silu_mul"),
    "tokens": ("other_tokens", "failed", "beam as on the CPU"),
    "decode": ("hang", "killed", "longer than its"),
    "openings": ("crash", "failed", "SIGABRT"),
    "prm": ("out_of_memory", "failed", "lower kv_memory"),
    "search": ("lost_branch", "failed", "wrong: search"),
    "life": ("leak", "failed", "wrong: life"),
    "vllm": ("broken_vllm", "failed", "vLLM found no device"),
}
"""Of each stage: the function above, how the stage must end, and what it must say."""
