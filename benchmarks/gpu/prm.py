"""PRM passes: new tokens of many steps through the judge, as milliseconds and as a share of the matrix peak."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.gpu import synthetic
from benchmarks.gpu.stages import Bench, Record
from benchmarks.gpu.timing import seconds_of
from branchwise.backend.select import open_backend
from branchwise.engine.runner import Feed
from branchwise.scoring.scorer import Scorer


def prm(bench: Bench) -> Iterator[Record]:
    """Passes of 512 to 4,096 tokens in steps of 64, under one prompt; the 7B shape where it fits."""
    backend = open_backend(bench.device)
    name, dtype = ("tiny", torch.float32) if bench.tiny else ("qwen2.5-7b", torch.bfloat16)
    if not bench.tiny and not synthetic.fits(name, backend, dtype):
        name = "qwen2.5-1.5b"
    judge = synthetic.judge(name, backend, dtype, (64 << 20) if bench.tiny else 3 << 30)
    step = 4 if bench.tiny else 64
    for tokens in (8,) if bench.tiny else (512, 1024, 2048, 4096):
        with backend.stream("prm"):
            spent = pass_seconds(judge, synthetic.prompt_tokens(name), tokens // step, step)
        flops = judge.flops_per_token * tokens
        yield {
            "kind": "prm",
            "model": name,
            "tokens": tokens,
            "ms": spent * 1e3,
            "of_peak": flops / spent / bench.flops,
            "of_roofline": max(flops / bench.flops, judge.flops_per_token / bench.bandwidth) / spent,
        }


def pass_seconds(judge: Scorer, prompt: list[int], steps: int, length: int) -> float:
    """Seconds of one pass over so many steps under a prompt, head included."""
    tree = judge.kv.tree
    root = tree.add_root()
    judge.runner.forward([Feed(root, prompt)])
    tree.seal(root)
    leaves = tree.fork(root, steps)

    def run() -> None:
        hidden = judge.runner.forward([Feed(leaf, [3] * length) for leaf in leaves])
        judge.prm.head(hidden)
        for leaf in leaves:
            tree.truncate(leaf, 0)

    spent = seconds_of(run, judge.prm.model.backend.device)
    for node in (*leaves, root):
        tree.prune(node)
    return spent
