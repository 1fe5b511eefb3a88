"""Our GEMM per instruction set against torch's linear and oneDNN's packed product, at the shapes of Qwen2.5-0.5B.

python benchmarks/kernels/bench_gemm.py --threads 1 --clock cpu [--rows 1 16 64] [--save]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import common
from branchwise import _C

SHAPES = {"qkv": (896, 1152), "o": (896, 896), "gate_up": (896, 9728), "down": (4864, 896), "lm_head": (896, 151936)}
ROWS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


def products(weight: Tensor) -> dict[str, Callable[[Tensor], object]]:
    """Every way to multiply by one weight, by name."""
    onednn = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    packed = _C.PackedWeight(weight)

    def ours(x: Tensor) -> None:
        _C.gemm(x, packed, torch.empty(len(x), weight.shape[0], dtype=x.dtype))

    return {
        **{f"ours {isa}": ours for isa in _C.supported_isas()},
        "onednn packed": lambda x: torch.ops.mkldnn._linear_pointwise(x, onednn, None, "none", [], ""),
        "torch linear": lambda x: torch.nn.functional.linear(x, weight),
    }


def bench(layer: str, dtype: torch.dtype, rows: list[int], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Times every product of one layer; prints a line of GFLOP/s each."""
    k, n = SHAPES[layer]
    records = []
    for name, product in products(torch.randn(n, k).to(dtype) * 0.05).items():
        if name.startswith("ours"):
            _C._use_isa(name.split()[1])
        line = f"{layer:8} {str(dtype)[6:]:9} {name:17}"
        for m in rows:
            if layer == "lm_head" and name == "ours generic" and m > 16:
                continue  # seconds each, and nothing to learn
            x = torch.randn(m, k).to(dtype)
            timing = common.measure(partial(product, x), budget_s=options.budget, min_runs=3, clock=options.clock)
            gflops = 2 * m * n * k / timing.median_s / 1e9
            line += f" {gflops:6.0f}"
            records.append(
                {
                    "layer": layer,
                    "dtype": str(dtype)[6:],
                    "product": name,
                    "rows": m,
                    "k": k,
                    "n": n,
                    "clock": options.clock,
                    "median_ms": round(timing.median_s * 1e3, 4),
                    "iqr_ms": round(timing.iqr_s * 1e3, 4),
                    "gflops": round(gflops, 1),
                }
            )
        print(line, flush=True)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: for one thread on a busy machine"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--layers", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--budget", type=float, default=0.1, help="seconds per figure")
    parser.add_argument("--save", action="store_true", help="append to benchmarks/results/gemm.jsonl")
    parser.add_argument("--quick", action="store_true", help="few sizes, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.layers, options.budget = [1, 16, 64], ["qkv"], 0.01
    torch.set_num_threads(options.threads)
    print(f"GFLOP/s at rows {options.rows}, {common.machine()}")
    for layer in options.layers:
        for dtype in (torch.bfloat16, torch.float32):
            records = bench(layer, dtype, options.rows, options)
            if options.save:
                common.append("gemm", records)


if __name__ == "__main__":
    main()
