"""branchwise as one side of a comparison."""

from __future__ import annotations

import time
from typing import Any

import torch

import branchwise as bw
from benchmarks.vs.protocol import Json, serve
from benchmarks.vs.workloads import TEMPERATURE
from branchwise import _C
from branchwise.engine.branch import StepLimits
from branchwise.types import Sampling


class Ours:
    """One engine; `sampling` and `search` are timed inside, without loading."""

    def __init__(self, policy: str, prm: str | None, dtype: str, threads: int, kv_memory: int) -> None:
        limits = {"max_tokens": 1 << 20, "max_step_tokens": 1 << 20}
        self.engine = bw.Engine(policy, prm, dtype=dtype, threads=threads, kv_memory=kv_memory, **limits)

    def about(self) -> Json:
        """Versions and settings."""
        return {
            "versions": {"branchwise": bw.__version__, "torch": torch.__version__},
            "flags": {"dtype": self.engine.resolved.dtype, "isa": _C.isa(), "threads": torch.get_num_threads()},
        }

    def sampling(self, prompt: list[int], rows: int, tokens: int, top_p: float, seed: int) -> Json:
        """`rows` samples of `tokens` tokens each; the end-of-sequence token is a token like any other."""
        steps = self.engine.steps
        eos, steps.tokenizer.eos_ids = steps.tokenizer.eos_ids, frozenset()
        begin = time.perf_counter()
        tree = steps.open(
            prompt, lineage=1, branches=rows, max_steps=1, limits=StepLimits(tokens, tokens),
            sampling=Sampling(TEMPERATURE, top_p), seed=seed, delimiter="\0never\0",
        )  # fmt: skip
        assert tree is not None
        steps.expand(tree, tree.root, rows)
        done: list[Any] = []
        while len(done) < rows:
            done += steps.poll()
        seconds = time.perf_counter() - begin
        steps.close(tree)
        steps.tokenizer.eos_ids = eos
        return {"seconds": seconds, "tokens": sum(len(node.tokens) for _, node in done)}


if __name__ == "__main__":
    serve(Ours)
