"""Decode iterations against their matrix products alone: same shapes, same packed weights, same process.

    PYTHONPATH=. python benchmarks/engine/bench_decode.py --policy qwen2.5-0.5b.gguf --rows 16 64 --save

The two are timed in turn, iteration by iteration, so that noise hits both. Prints medians, their ratio and tokens/s.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

import branchwise as bw
from benchmarks.common import report
from benchmarks.engines import growing
from benchmarks.options import model_parser, parse
from branchwise import _C
from branchwise.models.decoder import Decoder
from branchwise.types import Sampling

TEXT = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips did "
    "Natalia sell altogether in April and May? Explain every step, and say what each number means before you use it. "
)


def matmuls_alone(model: Decoder, rows: int) -> float:
    """Seconds of all matrix products of one iteration, in the order in which the model runs them."""
    x = torch.randn(rows, model.config.hidden_size).to(model.dtype)
    query = torch.randn(rows, model.config.n_heads * model.config.head_dim).to(model.dtype)
    inner = torch.randn(rows, model.config.intermediate_size).to(model.dtype)
    assert model.head is not None
    begin = time.perf_counter()
    for layer in model.layers:
        layer.qkv(x)
        layer.output(query)
        layer.gated(x)
        layer.down(inner)
    for tile in model.head:
        tile(x)
    return time.perf_counter() - begin


def bench(engine: bw.Engine, rows: int, tokens: int, sampling: Sampling) -> dict[str, object]:
    """Grow `rows` branches from one 110-token prompt by `tokens` tokens."""
    policy = engine.policy
    prompt = (policy.tokenizer.encode(TEXT) * 5)[:110]
    iterations, products = [], []
    with growing(policy, prompt, rows, tokens + 8, sampling):
        for _ in range(4):  # prompt and warm-up
            policy.poll()
            matmuls_alone(policy.model, rows)
        for _ in range(tokens - 4):
            begin = time.perf_counter()
            policy.poll()
            iterations.append(time.perf_counter() - begin)
            products.append(matmuls_alone(policy.model, rows))
    iteration, product = statistics.median(iterations), statistics.median(products)
    return {
        "bench": "decode",
        "rows": rows,
        "prompt_tokens": len(prompt),
        "tokens": tokens,
        "sampling": {"temperature": sampling.temperature, "top_p": sampling.top_p},
        "iteration_ms": round(iteration * 1e3, 3),
        "matmuls_ms": round(product * 1e3, 3),
        "ratio": round(iteration / product, 3),
        "tokens_per_s": round(rows / iteration, 1),
        "isa": _C.isa(),
        "threads": torch.get_num_threads(),
        "dtype": engine.resolved.dtype,
        "weights": engine.resolved.weights,
    }


def main() -> None:
    parser = model_parser(__doc__, "decode")
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-p", type=float, nargs="+", default=[0.95, 1.0])
    options = parse(parser)
    if options.quick:
        options.tokens = 24
    engine = bw.Engine(
        options.policy, dtype=options.dtype, weights=options.weights, threads=options.threads, kv_memory=1 << 30
    )
    model = Path(options.policy).stem
    records = (
        {**bench(engine, rows, options.tokens, Sampling(options.temperature, top_p)), "model": model}
        for rows in options.rows
        for top_p in options.top_p
    )
    report("decode", records, options.save)


if __name__ == "__main__":
    main()
