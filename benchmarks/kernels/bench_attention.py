"""Tree attention of one layer: branches that share a prompt, the same without sharing, and prefill.

python benchmarks/kernels/bench_attention.py --threads 1 --clock cpu [--save]
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks import common
from branchwise import _C

BLOCK = 32
MODELS = {"0.5B": (14, 2, 64), "7B": (28, 4, 128)}  # name: (query heads, kv heads, head dim)
CASES = {  # name: (shared tokens, branches, further tokens of each branch, query rows of each)
    "decode 64 x 174": (110, 64, 64, 1),
    "decode 16 x 174": (110, 16, 64, 1),
    "decode 1 x 174": (110, 1, 64, 1),
    "decode 64 x 1064": (1000, 64, 64, 1),
    "decode 64 x 1800": (1500, 64, 300, 1),
    "prefill 512": (1, 1, 512, 512),
    "append 16 x 60 to 400": (400, 16, 60, 60),
}
UNSHARED = {"decode 64 x 1800"}  # also timed as 64 problems that share nothing


def plan_of(shared: int, branches: int, tokens: int, rows: int, share: bool) -> tuple[_C.AttentionPlan, int]:
    """A plan for `branches` leaves, and the number of blocks of its pool. share: one prompt for all, or one each."""
    n_prompts = 1 if share else branches
    n_blocks = n_prompts * (shared // BLOCK + 2) + branches * (tokens // BLOCK + 2)
    tree, leaves = _C.KvTree(n_blocks), []
    for _ in range(n_prompts):
        root = tree.add_root()
        tree.append(root, shared)
        tree.seal(root)
        leaves += tree.fork(root, branches // n_prompts)
    for leaf in leaves:
        tree.append(leaf, tokens)
    return _C.Planner(tree).build(np.array(leaves, np.int64), np.full(branches, rows, np.int32)), n_blocks


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the kernel: of a layer of `model` with its own pool of keys and values."""

    model: str
    case: str
    shared: bool
    plan: _C.AttentionPlan
    run: Callable[[], None]


def call_of(model: str, case: str, dtype: torch.dtype, share: bool = True) -> Call:
    heads, kv_heads, head_dim = MODELS[model]
    plan, n_blocks = plan_of(*CASES[case], share)
    values = torch.randn(n_blocks, kv_heads, 2, _C.kv_width(head_dim)).to(dtype)
    pool = torch.from_numpy(_C.large_memory(values.nbytes)).view(dtype).view(values.shape).copy_(values)
    q = torch.randn(plan.n_rows, heads * head_dim).to(dtype)
    out = torch.empty_like(q)

    def run() -> None:
        _C.tree_attention(q, pool, plan, out, head_dim, head_dim**-0.5)

    return Call(model, case, share, plan, run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: for one thread on a busy machine"
    )
    parser.add_argument("--isas", nargs="+", choices=_C.supported_isas(), help="all unless given")
    parser.add_argument("--dtypes", nargs="+", choices=["bfloat16", "float32"], default=["bfloat16", "float32"])
    parser.add_argument("--save", action="store_true", help="append to benchmarks/results/attention.jsonl")
    parser.add_argument("--quick", action="store_true", help="first case only, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(common.machine())
    records = []
    cases = [(model, case) for model in MODELS for case in CASES if model == "0.5B" or case in UNSHARED]
    isas = options.isas or _C.supported_isas()
    for (model, case), dtype in itertools.product(cases[: 1 if options.quick else None], options.dtypes):
        calls = [
            call_of(model, case, getattr(torch, dtype), share) for share in (True, False)[: 1 + (case in UNSHARED)]
        ]
        for isa in isas:
            _C._use_isa(isa)
            timings = common.in_turn([call.run for call in calls], 0.2, options.clock)
            for call, timing in zip(calls, timings, strict=True):
                gain = timing.best_s / timings[0].best_s
                print(
                    f"{model} {case:22} {dtype:9} {isa:12} {timing.best_s * 1e3:9.3f} ms best "
                    f"{timing.median_s * 1e3:9.3f} median" + ("" if call.shared else f"  unshared: {gain:.2f} x"),
                    flush=True,
                )
                records.append(
                    {
                        "model": model,
                        "case": case,
                        "shared": call.shared,
                        "dtype": dtype,
                        "isa": isa,
                        "clock": options.clock,
                        "best_ms": round(timing.best_s * 1e3, 4),
                        "median_ms": round(timing.median_s * 1e3, 4),
                        "iqr_ms": round(timing.iqr_s * 1e3, 4),
                        "kv_slots_read": call.plan.kv_slots_read,
                        "kv_slots_unshared": call.plan.kv_slots_unshared,
                    }
                )
    if options.save:
        common.append("attention", records)


if __name__ == "__main__":
    main()
