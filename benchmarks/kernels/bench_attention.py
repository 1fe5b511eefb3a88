"""Tree attention of one layer of Qwen2.5-0.5B: 64 branches that share a prompt, and prefill.

python benchmarks/kernels/bench_attention.py --threads 1 --clock cpu [--save]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks import common
from branchwise import _C

HEADS, KV_HEADS, HEAD_DIM, BLOCK = 14, 2, 64, 32
CASES = {  # name: (prompt tokens, branches, tokens of each branch, query rows of each)
    "decode 64 x 174": (110, 64, 64, 1),
    "decode 16 x 174": (110, 16, 64, 1),
    "decode 1 x 174": (110, 1, 64, 1),
    "decode 64 x 1064": (1000, 64, 64, 1),
    "prefill 512": (1, 1, 512, 512),
    "append 16 x 60 to 400": (400, 16, 60, 60),
}


def plan_of(prompt: int, branches: int, tokens: int, rows: int) -> tuple[_C.AttentionPlan, int]:
    """A plan for `branches` leaves under one prompt, and the number of blocks of its pool."""
    n_blocks = prompt // BLOCK + 2 + branches * (tokens // BLOCK + 2)
    tree = _C.KvTree(n_blocks)
    root = tree.add_root()
    tree.append(root, prompt)
    tree.seal(root)
    leaves = tree.fork(root, branches)
    for leaf in leaves:
        tree.append(leaf, tokens)
    return _C.Planner(tree).build(np.array(leaves, np.int64), np.full(branches, rows, np.int32)), n_blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: for one thread on a busy machine"
    )
    parser.add_argument("--save", action="store_true", help="append to benchmarks/results/attention.jsonl")
    parser.add_argument("--quick", action="store_true", help="first case only, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(common.machine())
    records = []
    for case, sizes in list(CASES.items())[: 1 if options.quick else None]:
        plan, n_blocks = plan_of(*sizes)
        for dtype in (torch.bfloat16, torch.float32):
            pool = torch.randn(n_blocks, KV_HEADS, 2, BLOCK * HEAD_DIM).to(dtype)
            q = torch.randn(plan.n_rows, HEADS * HEAD_DIM).to(dtype)
            out, workspace = torch.empty_like(q), _C.Workspace()

            def attend(q=q, pool=pool, plan=plan, out=out, workspace=workspace) -> None:
                _C.tree_attention(q, pool, plan, out, HEAD_DIM**-0.5, workspace=workspace)

            for isa in _C.supported_isas():
                _C._use_isa(isa)
                timing = common.measure(attend, budget_s=0.2, clock=options.clock)
                sharing = plan.kv_slots_unshared / plan.kv_slots_read
                print(f"{case:22} {str(dtype)[6:]:9} {isa:12} {timing.median_s * 1e3:8.3f} ms  KV / {sharing:.1f}")
                records.append(
                    {
                        "case": case,
                        "dtype": str(dtype)[6:],
                        "isa": isa,
                        "clock": options.clock,
                        "median_ms": round(timing.median_s * 1e3, 4),
                        "iqr_ms": round(timing.iqr_s * 1e3, 4),
                        "kv_slots_read": plan.kv_slots_read,
                        "kv_slots_unshared": plan.kv_slots_unshared,
                    }
                )
    if options.save:
        common.append("attention", records)


if __name__ == "__main__":
    main()
