"""Matrix products of an iteration of Qwen2.5-0.5B, in the model's order, per weight format and instruction set.

    PYTHONPATH=. python benchmarks/kernels/bench_gemm.py --rows 1 16 64 --save

Every layer has weights of its own, so they come from memory as in a model. All formats take turns, pass by pass, so
that noise hits all of them. A rival is timed beside our products: oneDNN, which comes with torch, in bf16 (where it has
kernels for that) and fp32 with packed weights. What it may use is set outside: `ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16`
keeps it from AMX, as `--isas avx512_bf16` does for ours.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import common
from branchwise import _C

LAYER = {"qkv": (896, 1152), "o": (896, 896), "gate_up": (896, 9728), "down": (4864, 896)}  # name: (k, n)
# Not the whole model, for all formats have to fit into memory at once; taking turns keeps the caches cold.
HEAD_TILES, HEAD_TILE = 2, (896, 8192)
LAYERS = 6
FORMATS = {  # name: (bits, group of k that shares a scale; 0: one for all of an output, has minima)
    "int8": (8, 0, False),
    "q8": (8, 32, False),
    "q6": (6, 16, False),
    "q5+min": (5, 32, True),
    "q4+min": (4, 32, True),
    "q4": (4, 32, False),
}
ROWS = [1, 4, 16, 64, 256]
Product = Callable[[Tensor, Tensor], object]  # (x, out)
Weight = tuple[str, Product]  # (shape, product)


@dataclass(frozen=True, slots=True)
class Side:
    """One way to multiply. dtype: of x    sizes: bytes of weights by shape"""

    name: str
    isa: str
    dtype: torch.dtype
    weights: list[Weight]
    sizes: dict[str, int]


def dense(weight: Tensor, twelve_bit: bool = False) -> tuple[Product, int]:
    packed = _C.DenseWeight(weight, twelve_bit)
    return lambda x, out: _C.gemm(x, packed, out), packed.nbytes


def codes(weight: Tensor, bits: int, group: int, has_min: bool) -> tuple[Product, int]:
    scales = torch.rand(len(weight), weight.shape[1] // group if group else 1)
    values = weight.view(torch.uint8)[:, : weight.shape[1]] & (2**bits - 1)
    packed = _C.QuantisedWeight(values.contiguous(), scales, torch.zeros_like(scales) if has_min else None, bits, group)
    return lambda x, out: _C.quantised_gemm(x, packed, out), packed.nbytes


def onednn(weight: Tensor) -> tuple[Product, int]:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return lambda x, out: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""), weight.nbytes


def products(names: list[str], isas: list[str]) -> Iterator[tuple[str, str, torch.dtype, Any]]:
    """(name, instruction set, dtype of x, how to pack a weight) of everything that was asked for."""
    for name in names:
        if name in ("bf16", "fp32"):
            dtype = torch.bfloat16 if name == "bf16" else torch.float32
            yield from ((name, isa, dtype, dense) for isa in isas)
            if name == "fp32" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
                yield name, "onednn", dtype, onednn
        elif name == "bf16-12bit":
            yield from ((name, isa, torch.bfloat16, lambda w: dense(w, twelve_bit=True)) for isa in isas)
        else:
            yield from ((name, isa, torch.bfloat16, lambda w, name=name: codes(w, *FORMATS[name])) for isa in isas)


def model(pack: Any, dtype: torch.dtype, layers: int, tiles: int) -> tuple[list[Weight], dict[str, int]]:
    """The products of an iteration in order, and the bytes of weights that each shape reads."""
    dense_weights = {
        shape: (torch.randn(n, k) * 0.05).to(dtype) for shape, (k, n) in (LAYER | {"head": HEAD_TILE}).items()
    }
    order = list(LAYER) * layers + ["head"] * tiles
    sizes = dict.fromkeys(order, 0)
    weights = []
    for shape in order:
        product, size = pack(dense_weights[shape])
        weights.append((shape, product))
        sizes[shape] += size
    return weights, sizes


def one_pass(
    weights: list[Weight], x: dict[int, Tensor], out: dict[str, Tensor], now: Callable[[], float]
) -> list[float]:
    """Seconds of each product of one iteration."""
    seconds = []
    for shape, product in weights:
        k, _ = LAYER.get(shape, HEAD_TILE)
        begin = now()
        product(x[k], out[shape])
        seconds.append(now() - begin)
    return seconds


def summary(weights: list[Weight], sizes: dict[str, int], rows: int, passes: list[list[float]]) -> dict[str, Any]:
    """By shape, and for "all": each product's best and median over the passes, summed; GOP/s and GB/s at the best.

    The best is what the processor can do: a product is shorter than the time for which others take a core away.
    """
    by_product = list(zip(*passes, strict=True))
    results = {}
    for shape in (*sizes, "all"):
        mine = [i for i, (name, _) in enumerate(weights) if shape in (name, "all")]
        best = sum(min(by_product[i]) for i in mine)
        shapes = [LAYER.get(weights[i][0], HEAD_TILE) for i in mine]
        size = sum(sizes.values()) if shape == "all" else sizes[shape]
        results[shape] = {
            "best_ms": round(best * 1e3, 4),
            "median_ms": round(sum(statistics.median(by_product[i]) for i in mine) * 1e3, 4),
            "passes": len(passes),
            "gops": round(sum(2 * rows * k * n for k, n in shapes) / best / 1e9, 1),
            "weights_gb_s": round(size / best / 1e9, 2),
        }
    return results


def bench(sides: list[Side], rows: int, budget: float, clock: common.Clock) -> list[dict[str, Any]]:
    """Summaries of all sides, from passes in turn until `budget` seconds are spent."""
    now, passes = common.CLOCKS[clock], [[] for _ in sides]
    end = time.perf_counter() + budget
    while len(passes[0]) < 6 or time.perf_counter() < end:
        for side, seconds in zip(sides, passes, strict=True):
            x = {k: torch.randn(rows, k).to(side.dtype) for k, _ in (*LAYER.values(), HEAD_TILE)}
            shapes = {shape: LAYER.get(shape, HEAD_TILE) for shape in side.sizes}
            out = {shape: torch.empty(rows, n, dtype=side.dtype) for shape, (_, n) in shapes.items()}
            if side.isa != "onednn":
                _C._use_isa(side.isa)
            seconds.append(one_pass(side.weights, x, out, now))
    return [summary(side.weights, side.sizes, rows, seconds[1:]) for side, seconds in zip(sides, passes, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: for one thread on a busy machine"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    everything = ["bf16", "bf16-12bit", "fp32", *FORMATS]
    parser.add_argument("--formats", nargs="+", choices=everything, default=everything)
    parser.add_argument("--isas", nargs="+", choices=_C.supported_isas(), default=[_C.isa()])
    parser.add_argument("--budget", type=float, default=6.0, help="seconds per number of rows")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--save", action="store_true", help="append to benchmarks/results/gemm_cold.jsonl")
    parser.add_argument("--quick", action="store_true", help="few sizes, to see that it runs")
    options = parser.parse_args()
    tiles = HEAD_TILES
    if options.quick:
        options.rows, options.layers, options.budget, tiles = [1, 16], 1, 0.0, 0
    torch.set_num_threads(options.threads)
    bandwidth = common.read_bandwidth(1 << 26 if options.quick else 1 << 30)
    print(
        f"{common.machine()}, torch reads {bandwidth:.1f} GB/s\n"
        f"GOP/s at rows {options.rows}, GB/s of weights at the first"
    )
    sides = [
        Side(name, isa, dtype, *model(pack, dtype, options.layers, tiles))
        for name, isa, dtype, pack in products(options.formats, options.isas)
    ]
    results = {}
    for rows in options.rows:
        results[rows] = bench(sides, rows, options.budget, options.clock)
        totals = {f"{side.name} {side.isa}": of["all"]["gops"] for side, of in zip(sides, results[rows], strict=True)}
        print(rows, totals, flush=True)
    records = []
    for i, side in enumerate(sides):
        for shape in (*side.sizes, "all"):
            of = {rows: results[rows][i][shape] for rows in options.rows}
            line = "".join(f"{of[rows]['gops']:7.0f}" for rows in options.rows)
            print(f"{side.name:15} {side.isa:12} {shape:8} {line}  {of[options.rows[0]]['weights_gb_s']:7.1f}")
            records += [
                {"format": side.name, "isa": side.isa, "onednn_isa": os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
                 "shape": shape, "clock": options.clock, "rows": rows, "layers": options.layers,
                 "read_gb_s": round(bandwidth, 1), **of[rows]}
                for rows in options.rows
            ]  # fmt: skip
    if options.save:
        common.append("gemm_cold", records)


if __name__ == "__main__":
    main()
