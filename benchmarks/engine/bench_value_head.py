"""What a value head costs: decode iterations that keep hidden states, beside others, and the scoring of steps.

    PYTHONPATH=. python benchmarks/engine/bench_value_head.py --weights stored --rows 64 --save

Both grow in one process, in turn, iteration by iteration, so that noise hits both. `share` is what keeping states adds
to an iteration and, for steps of --step tokens, what scoring them does. With --threads 1 it is processor time, which
stays right beside other work. The head's numbers are random: what they are changes no time.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path

import torch

import branchwise as bw
from benchmarks.common import CLOCKS, report
from benchmarks.engine.bench_decode import TEXT
from benchmarks.engines import growing
from benchmarks.options import model_parser, parse
from branchwise import _C
from branchwise.engine.engine import StepEngine
from branchwise.engine.kv import KvCache
from branchwise.engine.tap import NO_TAP, Tap
from branchwise.scoring.value_head import Calibration, HeadScorer, ValueHead
from branchwise.training.train import check_layers
from branchwise.types import Node, Sampling

SAMPLING = Sampling(0.8, 1.0)


def bench(policy: StepEngine, layers: tuple[int, ...], rows: int, tokens: int, step: int) -> dict[str, object]:
    """Grow `rows` branches from one prompt of 110 tokens by `tokens` tokens, with and without states."""
    clock = "cpu" if torch.get_num_threads() == 1 else "wall"
    now = CLOCKS[clock]
    prompt = (policy.tokenizer.encode(TEXT) * 5)[:110]
    engines = {
        name: beside(policy, tap, rows * (tokens + 16)) for name, tap in (("plain", NO_TAP), ("kept", Tap(layers)))
    }
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    done: list[Node] = []
    with ExitStack() as stack:
        for name, engine in engines.items():
            stack.enter_context(growing(engine, prompt, rows, tokens, SAMPLING, states=name == "kept"))
        for iteration in range(tokens):
            for name in sorted(engines, reverse=iteration % 2 == 1):
                begin = now()
                ended = engines[name].poll()
                if 4 <= iteration < tokens - 1:  # prompt and warm-up; the end
                    seconds[name].append(now() - begin)
                done += [node for _, node in ended if name == "kept"]
        scorer = HeadScorer(made_up(policy, layers), policy.model.backend, policy.tokenizer)
        tree = scorer.open(done[0].path[0], "")
        for node in done:
            scorer.submit(tree, node)
        begin = now()
        scored = scorer.poll()
        score_s = (now() - begin) / len(scored)
    plain, kept = (statistics.median(seconds[name]) for name in engines)
    keeping = statistics.median(b / a - 1 for a, b in zip(*seconds.values(), strict=True))
    return {
        "bench": "value_head",
        "rows": rows,
        "layers": list(layers),
        "hidden": policy.model.config.hidden_size,
        "tokens": tokens,
        "step_tokens": step,
        "iteration_ms": round(plain * 1e3, 3),
        "kept_ms": round(kept * 1e3, 3),
        "score_us": round(score_s * 1e6, 1),
        "keeping_share": round(keeping, 4),
        "share": round(keeping + rows * score_s / (step * plain), 4),
        "clock": clock,
        "isa": _C.isa(),
        "threads": torch.get_num_threads(),
    }


def beside(policy: StepEngine, tap: Tap, slots: int) -> StepEngine:
    """An engine on the same weights, with a KV of its own."""
    model, backend = policy.model, policy.model.backend
    kv = KvCache(model.config, slots // backend.block_slots + 64, model.dtype, backend)
    return StepEngine(model, policy.tokenizer, kv, tap=tap)


def made_up(policy: StepEngine, layers: tuple[int, ...]) -> ValueHead:
    """A head of random numbers: mean and last state of each layer, and four numbers of log-probabilities."""
    width = 2 * len(layers) * policy.model.config.hidden_size + 4
    weight = torch.randn(1, width, generator=torch.Generator().manual_seed(0)) / width
    return ValueHead("", layers, "mean+last", False, [weight, torch.zeros(1)], Calibration(1.0, 0.0))


def main() -> None:
    parser = model_parser(__doc__, "value_head")
    parser.add_argument("--rows", type=int, nargs="+", default=[64])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--step", type=int, default=25, help="tokens of a step that is scored")
    parser.add_argument("--layers", type=int, nargs="+", help="that are kept; default: four, as train-head tries them")
    options = parse(parser)
    if options.quick:
        options.tokens = 24
    with bw.Engine(
        options.policy, dtype=options.dtype, weights=options.weights, threads=options.threads, kv_memory=64 << 20
    ) as engine:
        layers = check_layers(engine, options.layers)
        about = {"model": Path(options.policy).stem, "dtype": engine.resolved.dtype, "weights": engine.resolved.weights}
        records = (
            {**bench(engine.policy, tuple(layers), rows, options.tokens, options.step), **about}
            for rows in options.rows
        )
        report("value_head", records, options.save)


if __name__ == "__main__":
    main()
