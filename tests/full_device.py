"""A device that is full from some allocation on, and small searches on models of random weights to meet it with."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu import synthetic
from branchwise.backend.base import Backend
from branchwise.pair.pair import ModelPair
from branchwise.scoring.scorer import Scorer
from branchwise.search.driver import run
from branchwise.search.service import Service
from branchwise.search.session import SearchOptions
from branchwise.strategies import make_strategy
from branchwise.types import Endings, Node, Problem, Result, Sampling, Settings

ENDS = Endings(tuple(f"{digit} " for digit in (1, 3, 5, 7)))  # the text of a token is its number
SETTINGS = Settings(Sampling(1.0, top_p=0.9), ENDS, max_tokens=9, max_step_tokens=4, reuse=False)
SAID = "Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.02 GiB is free."


class Full(TorchDispatchMode):
    """Lets so many allocations of torch pass, then `times` fail."""

    def __init__(self, after: int, times: int) -> None:
        super().__init__()
        self.left, self.times, self.count = after, times, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(each.alias_info is None for each in func._schema.returns):
            self.count += 1
            self.left -= 1
            if self.left < 0 and self.times:
                self.times -= 1
                fail()
        return func(*args, **(kwargs or {}))


def tiny_pair(backend: Backend, kv_memory: int = 1 << 20) -> ModelPair[Scorer]:
    """A policy and a PRM of random weights, always the same."""
    torch.manual_seed(3)
    models = [make("tiny", backend, torch.float32, kv_memory) for make in (synthetic.policy, synthetic.judge)]
    return ModelPair(*models, instruction="")


def searched(service: Service[Any], strategy: str = "beam", problems: int = 1, **options: Any) -> list[Result]:
    """Problems side by side, in their order."""
    given = [Problem(f"p{i}", str(4 + i), prompt=[1 + i] * (4 + i)) for i in range(problems)]
    chosen = make_strategy(strategy, **({"n": 2, "expand": 2} | options))
    found = run(given, service, SearchOptions(chosen, SETTINGS), max_in_flight=problems)
    return sorted(found, key=lambda result: result.problem.id)


def told(results: list[Result]) -> list[Any]:
    """All that a search found."""

    def node(each: Node) -> Any:
        score = None if each.score is None else round(each.score, 4)
        return each.tokens, each.finish, score, [node(child) for child in each.children]

    return [node(result.tree) for result in results]


def clean(pair: ModelPair[Any]) -> None:
    """No search has left anything behind."""
    for kv in (pair.policy.kv, pair.judge.kv):
        kv.tree.check()
        assert kv.free_blocks == kv.n_blocks
    assert pair.idle


def fail(*_: Any) -> None:
    """As torch does for want of memory."""
    raise torch.OutOfMemoryError(f"CUDA out of memory. {SAID}")


def breaks(*_: Any) -> None:
    """As torch does after a kernel's fault."""
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def failing(function: Callable[..., Any], begin: int, times: int, fault: Callable[..., None] = fail) -> Any:
    """A function, or method, whose calls `begin` to `begin + times` fail."""
    calls = itertools.count()

    def call(*args: Any, **kwargs: Any) -> Any:
        if begin <= next(calls) < begin + times:
            fault()
        return function(*args, **kwargs)

    return call
