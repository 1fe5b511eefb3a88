"""Sampling of 64 rows over 151,936 words, tile by tile, per kind of draw, with and without the lm_head product.

torch's sort-based top-p for comparison.

python benchmarks/kernels/bench_head.py --threads 1 --clock cpu [--save]
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks import common
from branchwise import _C

VOCAB_SIZE, TILE_WORDS, HIDDEN = 151_936, 8192, 896
DRAWS = {  # name: (temperature, top_p, top_k, min_p)
    "argmax": (0.0, 1.0, 0, 0.0),
    "T 0.8": (0.8, 1.0, 0, 0.0),
    "T 0.8 top-p 0.95": (0.8, 0.95, 0, 0.0),
    "T 0.8 top-k 50": (0.8, 1.0, 50, 0.0),
    "T 0.8 top-k 50 top-p 0.95": (0.8, 0.95, 50, 0.0),
    "T 0.8 min-p 0.05": (0.8, 1.0, 0, 0.05),
}


def hidden_and_head(kind: str, rows: int) -> tuple[Tensor, Tensor]:
    """bf16 hidden [rows, 896] and lm_head [words, 896] whose logits are, before rounding, normal ones of deviation 2;

    model: and a few words far above, as a language model's; flat: a fifth of all words is in top-p 0.95.
    """
    torch.manual_seed(0)
    hidden, head = torch.randn(rows, HIDDEN), torch.randn(VOCAB_SIZE, HIDDEN) * (2 / HIDDEN**0.5)
    hidden[:, 0], head[:, 0] = 1, 0
    if kind == "model":
        head[torch.randint(0, VOCAB_SIZE, (20,)), 0] = 15
    return hidden.bfloat16(), head.bfloat16()


def torch_top_p(logits: Tensor, temperature: float = 0.8, top_p: float = 0.95) -> Tensor:
    """The usual way: sort, cumulate, mask, draw."""
    probabilities, words = (logits.float() / temperature).softmax(-1).sort(-1, descending=True)
    probabilities[probabilities.cumsum(-1) - probabilities >= top_p] = 0
    return words.gather(1, probabilities.multinomial(1))


def time_draws(
    hidden: Tensor, weights: list[_C.DenseWeight], tiles: list[Tensor], with_head: bool, options: argparse.Namespace
) -> list[common.Timing]:
    """Of every kind of draw, in turn; with_head: the product that makes a tile of logits comes before each."""
    rows = len(hidden)
    sampler, ids = _C.HeadSampler(rows, VOCAB_SIZE), np.arange(rows)

    def draw(settings: tuple[float, ...]) -> None:
        sampler.begin(ids, ids, ids, *(np.full(rows, value) for value in settings))
        for i, (packed, tile) in enumerate(zip(weights, tiles, strict=True)):
            if with_head:
                _C.gemm(hidden, packed, tile)
            sampler.tile(tile, i * TILE_WORDS)
        sampler.finish()

    return common.in_turn([partial(draw, settings) for settings in DRAWS.values()], options.budget, options.clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: for one thread on a busy machine"
    )
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--isas", nargs="+", choices=_C.supported_isas(), help="all unless given")
    parser.add_argument("--budget", type=float, default=0.4, help="seconds per kind of draw")
    parser.add_argument("--save", action="store_true", help="append to benchmarks/results/head.jsonl")
    parser.add_argument("--quick", action="store_true", help="4 rows, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(common.machine())
    rows, records = (4 if options.quick else options.rows), []

    def record(kind: str, isa: str, name: str, with_head: bool, timing: common.Timing, base: float) -> None:
        share = f"{timing.best_s / base:6.2f} x argmax" if base else ""
        label = f"{name} + lm_head" if with_head else name
        print(f"{kind:6} {isa:12} {label:36} {timing.best_s * 1e3:8.2f} ms {share}", flush=True)
        records.append(
            {
                "logits": kind,
                "isa": isa,
                "draw": name,
                "lm_head": with_head,
                "rows": rows,
                "clock": options.clock,
                "best_ms": round(timing.best_s * 1e3, 3),
                "median_ms": round(timing.median_s * 1e3, 3),
                "iqr_ms": round(timing.iqr_s * 1e3, 3),
            }
        )

    for kind in ("model", "flat"):
        hidden, head = hidden_and_head(kind, rows)
        weights = [_C.DenseWeight(part.contiguous()) for part in head.split(TILE_WORDS)]
        tiles = [torch.empty(rows, packed.shape[0]).bfloat16() for packed in weights]
        for packed, tile in zip(weights, tiles, strict=True):
            _C.gemm(hidden, packed, tile)
        logits = torch.cat(tiles, 1)
        for isa in options.isas or _C.supported_isas():
            _C._use_isa(isa)
            for with_head in (False, True):
                timings = time_draws(hidden, weights, tiles, with_head, options)
                for name, timing in zip(DRAWS, timings, strict=True):
                    record(kind, isa, name, with_head, timing, timings[0].best_s)
        if not options.quick:
            timing = common.measure(partial(torch_top_p, logits), min_runs=3, clock=options.clock)
            record(kind, "torch", "T 0.8 top-p 0.95", False, timing, 0.0)
    if options.save:
        common.append("head", records)


if __name__ == "__main__":
    main()
