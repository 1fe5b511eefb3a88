"""What it costs to be told how sure the policy was of every token: decode iterations that ask, beside others.

    PYTHONPATH=. python benchmarks/engine/bench_confidence.py --policy smollm2-135m.gguf --rows 64 --save

Both grow in one process, in turn, iteration by iteration, so that noise hits both.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from pathlib import Path

import torch

import branchwise as bw
from benchmarks.common import report
from benchmarks.engine.bench_decode import TEXT
from benchmarks.engines import growing
from benchmarks.options import model_parser, parse
from branchwise import _C
from branchwise.confidence import ConfidenceOptions
from branchwise.types import Sampling

ASKS = {"plain": None, "asked": ConfidenceOptions()}


def bench(policies: dict[str, bw.Engine], rows: int, tokens: int, sampling: Sampling) -> dict[str, object]:
    """Grow `rows` branches from one prompt of 110 tokens by `tokens` tokens, with and without asking."""
    first = next(iter(policies.values()))
    prompt = (first.policy.tokenizer.encode(TEXT) * 5)[:110]
    seconds: dict[str, list[float]] = {name: [] for name in ASKS}
    with ExitStack() as stack:
        for name, wish in ASKS.items():
            stack.enter_context(growing(policies[name].policy, prompt, rows, tokens + 8, sampling, confidence=wish))
        for iteration in range(tokens):
            for name in sorted(ASKS, reverse=iteration % 2 == 1):
                begin = time.perf_counter()
                policies[name].policy.poll()
                if iteration >= 4:  # prompt and warm-up
                    seconds[name].append(time.perf_counter() - begin)
    plain, asked = (statistics.median(seconds[name]) for name in ASKS)
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
        "share": round(asked / plain - 1, 4),
        "share_pairwise": round(statistics.median(each), 4),
        "isa": _C.isa(),
        "threads": torch.get_num_threads(),
        "dtype": first.resolved.dtype,
        "weights": first.resolved.weights,
    }


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
