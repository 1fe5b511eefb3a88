"""Sampling of 64 rows over 151,936 words, tile by tile, per kind of draw; torch's sort-based top-p for comparison.

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

VOCAB_SIZE, TILE_WORDS = 151_936, 8192
DRAWS = {  # name: (temperature, top_p, top_k, min_p)
    "argmax": (0.0, 1.0, 0, 0.0),
    "T 0.8": (0.8, 1.0, 0, 0.0),
    "T 0.8 top-p 0.95": (0.8, 0.95, 0, 0.0),
    "T 0.8 top-k 50": (0.8, 1.0, 50, 0.0),
    "T 0.8 min-p 0.05": (0.8, 1.0, 0, 0.05),
}


def logits_like(kind: str, rows: int) -> Tensor:
    """model: a few words far above normal ones, as a language model's; flat: a fifth of all words is in top-p 0.95."""
    torch.manual_seed(0)
    logits = torch.randn(rows, VOCAB_SIZE) * 2
    if kind == "model":
        logits[:, torch.randint(0, VOCAB_SIZE, (20,))] += 15
    return logits


def torch_top_p(logits: Tensor, temperature: float = 0.8, top_p: float = 0.95) -> Tensor:
    """The usual way: sort, cumulate, mask, draw."""
    probabilities, words = (logits.float() / temperature).softmax(-1).sort(-1, descending=True)
    probabilities[probabilities.cumsum(-1) - probabilities >= top_p] = 0
    return words.gather(1, probabilities.multinomial(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: for one thread on a busy machine"
    )
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--save", action="store_true", help="append to benchmarks/results/head.jsonl")
    parser.add_argument("--quick", action="store_true", help="4 rows, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(common.machine())
    rows, records = (4 if options.quick else options.rows), []
    sampler = _C.HeadSampler(rows, VOCAB_SIZE)
    ids = np.arange(rows)

    def record(kind: str, isa: str, name: str, timing: common.Timing) -> None:
        print(f"{kind:6} {isa:12} {name:18} {timing.median_s * 1e3:8.2f} ms", flush=True)
        records.append(
            {
                "logits": kind,
                "isa": isa,
                "draw": name,
                "rows": rows,
                "clock": options.clock,
                "median_ms": round(timing.median_s * 1e3, 3),
                "iqr_ms": round(timing.iqr_s * 1e3, 3),
            }
        )

    for kind in ("model", "flat"):
        logits = logits_like(kind, rows).bfloat16()
        tiles = [
            (first, logits[:, first : first + TILE_WORDS].contiguous()) for first in range(0, VOCAB_SIZE, TILE_WORDS)
        ]
        for isa in _C.supported_isas():
            _C._use_isa(isa)
            for name, settings in DRAWS.items():

                def draw(settings=settings, tiles=tiles) -> None:
                    sampler.begin(ids, ids, ids, *(np.full(rows, value) for value in settings))
                    for first, tile in tiles:
                        sampler.tile(tile, first)
                    sampler.finish()

                record(kind, isa, name, common.measure(draw, clock=options.clock))
        record(
            kind,
            "torch",
            "T 0.8 top-p 0.95",
            common.measure(partial(torch_top_p, logits), min_runs=3, clock=options.clock),
        )
    if options.save:
        common.append("head", records)


if __name__ == "__main__":
    main()
