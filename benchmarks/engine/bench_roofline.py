"""Whole forward passes against what the machine's own peaks allow: decoding 64 rows, and a prefill of 16 x 200 tokens.

    PYTHONPATH=. python benchmarks/engine/bench_roofline.py --policy qwen2.5-0.5b.gguf --save

Peaks are measured here: GFLOP/s of the model's best matrix product at 256 rows or more, and GB/s of reading memory.
The roofline of a pass is, product by product, the longer of computing it and of reading its weights, at these peaks,
plus the time to read each live key and value once. Weights count as the model's numbers are, two bytes for bf16: where
they are kept in 12 bits, a share above 1 is possible. A prefill is judged by the FLOPs of the matrix products that
it needs alone: of the last layer, only a feed's last row goes beyond attention.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import branchwise as bw
from benchmarks import common
from benchmarks.options import POLICY
from branchwise import _C
from branchwise.assets import asset_path
from branchwise.models.decoder import Decoder

PEAK_ROWS = [256, 512]


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product of the model. cells: numbers in its weights    read: bytes that hold them"""

    run: Any
    k: int
    cells: int
    read: int


def product_of(linear: Any, itemsize: int, matrices: int = 1) -> Product:
    cells = matrices * linear.in_features * linear.out_features
    return Product(linear, linear.in_features, cells, sum(part.nbytes for part in linear.packed) or cells * itemsize)


def layer_products(model: Decoder) -> list[Product]:
    size = model.dtype.itemsize
    return [
        product
        for layer in model.layers
        for product in (product_of(layer.qkv, size), product_of(layer.output, size), product_of(layer.gated, size, 2),
                        product_of(layer.down, size))
    ]  # fmt: skip


def all_products(model: Decoder) -> list[Product]:
    return [*layer_products(model), *(product_of(tile, model.dtype.itemsize) for tile in model.head)]


def measured_peaks(model: Decoder, rows: list[int], budget_s: float, clock: common.Clock) -> tuple[float, float]:
    """GFLOP/s and GB/s; the bandwidth is the better of torch's sum and of our one-row products."""
    peak, bandwidth = 0.0, common.read_bandwidth(clock=clock)
    for product in layer_products(model)[:4]:
        for m in rows:
            x = torch.randn(m, product.k).to(model.dtype)
            timing = common.measure(lambda product=product, x=x: product.run(x), budget_s=budget_s, clock=clock)
            peak = max(peak, 2 * m * product.cells / timing.best_s / 1e9)
    everything = all_products(model)
    inputs = {product.k: torch.randn(1, product.k).to(model.dtype) for product in everything}

    def one_row() -> None:
        for product in everything:
            product.run(inputs[product.k])

    size = sum(product.read for product in everything)
    return peak, max(bandwidth, size / common.measure(one_row, budget_s=budget_s, clock=clock).best_s / 1e9)


def forward_pass(model: Decoder, prompt: int, branches: int, tokens: int, rows: int) -> tuple[Any, int]:
    """A function that runs `rows` new tokens of each of `branches` leaves, and the live slots of K and V it reads.

    prompt: shared tokens    tokens: of each branch, the new ones among them    With one row a branch lm_head runs too.
    """
    n_blocks = prompt // 32 + 2 + branches * (tokens // 32 + 2)
    tree = _C.KvTree(n_blocks)
    root = tree.add_root()
    tree.append(root, prompt)
    tree.seal(root)
    leaves = tree.fork(root, branches)
    for leaf in leaves:
        tree.append(leaf, tokens)
    plan = _C.Planner(tree).build(np.array(leaves, np.int64), np.full(branches, rows, np.int32))
    model.rope.cover(prompt + tokens)
    config = model.config
    pool = model.backend.kv_pool(config.n_layers, n_blocks, config.n_kv_heads, config.head_dim, model.dtype)
    pool.normal_()
    ids = torch.randint(0, min(1000, config.vocab_size), (branches * rows,))

    def run() -> Tensor:
        (hidden,) = model.through_layers(model.embed(ids), plan, pool)
        if rows == 1:
            for tile in model.head:
                tile(hidden)
        return hidden

    return run, prompt + branches * tokens


def decode_roofline(model: Decoder, rows: int, live_slots: int, peak: float, bandwidth: float) -> float:
    """Seconds that the peaks allow an iteration with lm_head."""
    seconds = 0.0
    for product in all_products(model):
        seconds += max(2 * rows * product.cells / peak, product.cells * model.dtype.itemsize / bandwidth) / 1e9
    config = model.config
    kv_bytes = live_slots * config.n_layers * config.n_kv_heads * 2 * config.head_dim * model.dtype.itemsize
    return seconds + kv_bytes / bandwidth / 1e9


def prefill_gflop(model: Decoder, rows: int, feeds: int) -> float:
    """GFLOP of the layers' products, without those behind the last layer's attention of all but a feed's last row."""
    products = layer_products(model)
    return 2e-9 * (sum(rows * each.cells for each in products[:-3]) + sum(feeds * each.cells for each in products[-3:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default=str(POLICY), help="folder, .gguf file or hub id")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: for one thread on a busy machine"
    )
    parser.add_argument("--budget", type=float, default=2.0, help="seconds per figure")
    parser.add_argument("--save", action="store_true", help="append to benchmarks/results/roofline.jsonl")
    parser.add_argument("--quick", action="store_true", help="the bundled policy, once")
    options = parser.parse_args()
    if options.quick:
        options.policy, options.budget = str(asset_path("policy-large")), 0.01
    if not Path(options.policy).exists():
        parser.exit(0, f"skipped: no model at {options.policy}; name one with --policy\n")
    engine = bw.Engine(options.policy, dtype="bfloat16", threads=options.threads, kv_memory=1 << 28)
    model = engine.policy.model
    peak, bandwidth = measured_peaks(model, PEAK_ROWS, options.budget / 8, options.clock)
    common_fields = {
        "model": Path(options.policy).stem, "isa": _C.isa(), "clock": options.clock, "gemm_gflops": round(peak),
        "read_gb_s": round(bandwidth, 1),
    }  # fmt: skip
    records: list[dict[str, Any]] = []
    for rows in options.rows:
        run, live = forward_pass(model, 110, rows, 64, 1)
        timing = common.measure(run, budget_s=options.budget, clock=options.clock)
        allowed = decode_roofline(model, rows, live, peak, bandwidth)
        records.append(
            {"pass": "decode", "rows": rows, "best_ms": timing.best_s * 1e3, "median_ms": timing.median_s * 1e3,
             "roofline_ms": allowed * 1e3, "share": allowed / timing.best_s}
        )  # fmt: skip
    run, _ = forward_pass(model, 110, 16, 200, 200)
    timing = common.measure(run, budget_s=options.budget, clock=options.clock)
    gflop = prefill_gflop(model, 3200, 16)
    records.append(
        {"pass": "prefill 16 x 200", "rows": 3200, "best_ms": timing.best_s * 1e3, "median_ms": timing.median_s * 1e3,
         "gflops": gflop / timing.best_s, "share": gflop / timing.best_s / peak}
    )  # fmt: skip
    records = [
        {key: round(value, 3) if isinstance(value, float) else value for key, value in (common_fields | record).items()}
        for record in records
    ]
    for record in records:
        print(json.dumps(record), flush=True)
    if options.save:
        common.append("roofline", records)


if __name__ == "__main__":
    main()
