"""What it costs to be told how sure the policy was of every token: decode iterations that ask, beside others.

    PYTHONPATH=. python benchmarks/engine/bench_confidence.py --policy smollm2-135m.gguf --rows 64 --save

Both grow in one process, in turn, iteration by iteration, so that noise hits both; then the sampler alone draws from
ready logits, in turn, too: `draw_share` is what asking adds there, as a share of an iteration. With --threads 1 it is
processor time, which stays right beside other work.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch

import branchwise as bw
from benchmarks.common import CLOCKS, Clock, Timing, in_turn, report
from benchmarks.engine.bench_decode import TEXT
from benchmarks.engines import growing
from benchmarks.options import model_parser, parse
from branchwise import _C
from branchwise.confidence import ConfidenceOptions
from branchwise.engine.engine import StepEngine
from branchwise.types import Sampling

ASKS = {"plain": None, "asked": ConfidenceOptions()}


def bench(policies: dict[str, bw.Engine], rows: int, tokens: int, sampling: Sampling) -> dict[str, object]:
    """Grow `rows` branches from one prompt of 110 tokens by `tokens` tokens, with and without asking."""
    first, now = next(iter(policies.values())), CLOCKS[clock()]
    prompt = (first.policy.tokenizer.encode(TEXT) * 5)[:110]
    seconds: dict[str, list[float]] = {name: [] for name in ASKS}
    with ExitStack() as stack:
        for name, wish in ASKS.items():
            stack.enter_context(growing(policies[name].policy, prompt, rows, tokens + 8, sampling, confidence=wish))
        for iteration in range(tokens):
            for name in sorted(ASKS, reverse=iteration % 2 == 1):
                begin = now()
                policies[name].policy.poll()
                if iteration >= 4:  # prompt and warm-up
                    seconds[name].append(now() - begin)
    plain, asked = (statistics.median(seconds[name]) for name in ASKS)
    plain_draw, asked_draw = draws(first.policy, rows, sampling, 2.0 if tokens > 24 else 0.2)
    added = asked_draw.median_s - plain_draw.median_s
    each = [after / before - 1 for before, after in zip(seconds["plain"], seconds["asked"], strict=True)]
    return {
        "bench": "confidence",
        "rows": rows,
        "top": ConfidenceOptions().top,
        "words": first.policy.model.config.vocab_size,
        "prompt_tokens": len(prompt),
        "tokens": tokens,
        "sampling": {"temperature": sampling.temperature, "top_p": sampling.top_p},
        "iteration_ms": round(plain * 1e3, 3),
        "asked_ms": round(asked * 1e3, 3),
        "share": round(statistics.median(each), 4),
        "draw_ms": round(plain_draw.median_s * 1e3, 3),
        "asked_draw_ms": round(asked_draw.median_s * 1e3, 3),
        "draw_share": round(added / plain, 4),
        "clock": clock(),
        "isa": _C.isa(),
        "threads": torch.get_num_threads(),
        "dtype": first.resolved.dtype,
        "weights": first.resolved.weights,
    }


def clock() -> Clock:
    return "cpu" if torch.get_num_threads() == 1 else "wall"


def draws(policy: StepEngine, rows: int, sampling: Sampling, budget_s: float) -> list[Timing]:
    """Drawing from ready logits of random states: without and with asking."""
    model, fused = policy.model, policy.sampler.fused.fused
    hidden = torch.randn(rows, model.config.hidden_size, generator=torch.Generator().manual_seed(0)).to(model.dtype)
    tiles, ids = [tile(hidden) for tile in model.head], np.arange(rows)

    def draw(wish: ConfidenceOptions | None) -> None:
        columns = (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p)
        fused.begin(ids, ids, ids, *(np.full(rows, value) for value in columns))
        if wish is not None:
            fused.ask_sureness(np.full(rows, wish.top))
        word = 0
        for tile in tiles:
            fused.tile(tile, word)
            word += tile.shape[1]
        fused.finish()
        if wish is not None:
            fused.sureness()

    return in_turn([partial(draw, wish) for wish in ASKS.values()], budget_s, clock())


def main() -> None:
    parser = model_parser(__doc__, "confidence")
    parser.add_argument("--rows", type=int, nargs="+", default=[64])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--top-p", type=float, nargs="+", default=[1.0, 0.95])
    options = parse(parser)
    if options.quick:
        options.tokens = 24
    policies = {
        name: bw.Engine(
            options.policy, dtype=options.dtype, weights=options.weights, threads=options.threads, kv_memory=512 << 20
        )
        for name in ASKS
    }
    model = Path(options.policy).stem
    records = (
        {**bench(policies, rows, options.tokens, Sampling(0.8, top_p)), "model": model}
        for rows in options.rows
        for top_p in options.top_p
    )
    report("confidence", records, options.save)


if __name__ == "__main__":
    main()
