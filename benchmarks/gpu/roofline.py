"""What a search could cost on GPUs that are not here: bytes and FLOPs counted from real plans, divided by data sheets.

    PYTHONPATH=. python -m benchmarks.gpu.roofline            # the table of docs/gpu.md
    PYTHONPATH=. python -m benchmarks.gpu.roofline --check    # fails if the document says something else

Static: nothing here was measured on a GPU. A range is what kernels usually reach, 70 to 90 % of the bandwidth and 50 to
80 % of the tensor peak. Launch gaps, stragglers, cache hits and the host are left out.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from branchwise import _C
from branchwise_kernels.attention_cost import attention_bytes
from branchwise_kernels.layout import CHUNK_SLOTS, MAX_ITEM_ROWS, PAGE

DOCUMENT = Path(__file__).parents[2] / "docs" / "gpu.md"
BEGIN, END = "<!-- roofline -->", "<!-- end of roofline -->"
PROMPT, STEP, STEPS, EXPAND = 200, 60, 20, 4  # tokens, tokens, steps, M
BANDWIDTH_SHARE, PEAK_SHARE = (0.9, 0.7), (0.8, 0.5)  # best and worst


@dataclass(frozen=True)
class Gpu:
    """bandwidth: bytes/s    peak: dense bf16 FLOP/s    memory: bytes; from the makers' data sheets."""

    name: str
    bandwidth: float
    peak: float
    memory: float


GPUS = (
    Gpu("H100 SXM", 3.35e12, 989e12, 80e9),
    Gpu("A100 80 GB", 2.04e12, 312e12, 80e9),
    Gpu("RTX 4090", 1.01e12, 165e12, 24e9),
)


@dataclass(frozen=True)
class Model:
    """Sizes that bytes and FLOPs depend on. matmul: parameters in matrix products; total: all that is kept."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    matmul: float
    total: float

    @property
    def slot_bytes(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


POLICY = Model(28, 12, 2, 128, 1.544e9, 1.544e9)  # Qwen2.5-1.5B, lm_head tied to the embedding
PRM = Model(28, 28, 4, 128, 6.538e9, 7.08e9)  # Qwen2.5-Math-PRM-7B, without its lm_head


@dataclass(frozen=True)
class Work:
    """One search of n branches: totals over its decode iterations and PRM passes."""

    decode_bytes: float
    decode_flops: float
    prm_bytes: float
    prm_flops: float
    kv_slots: int  # live at most

    def memory(self) -> float:
        """Weights and KV of both models, bytes."""
        return 2 * (POLICY.total + PRM.total) + self.kv_slots * (POLICY.slot_bytes + PRM.slot_bytes)


def passes(tree: _C.KvTree, nodes: list[int], tokens: int, model: Model) -> tuple[float, float]:
    """(bytes, FLOPs) of one forward pass over the last `tokens` tokens of every node."""
    planner = _C.Planner(tree, chunk_slots=CHUNK_SLOTS, max_item_rows=MAX_ITEM_ROWS)
    plan = planner.build(np.array(nodes, np.int64), np.full(len(nodes), tokens, np.int32))
    cost = attention_bytes(plan, model.heads, model.kv_heads, model.head_dim, itemsize=2)
    moved = 2 * model.matmul + model.layers * min(cost.tree, cost.rows) + plan.n_rows * model.slot_bytes
    attention = 4 * model.heads * model.head_dim * model.layers * plan.kv_slots_unshared
    return moved, 2 * model.matmul * plan.n_rows + attention


def search(n: int, seed: int = 0) -> Work:
    """Beam search whose survivors are drawn at random; iterations are taken at the middle of each step."""
    rng = random.Random(seed)
    tree = _C.KvTree(4 * n * STEPS * -(-STEP // PAGE) + 64, PAGE)
    root = tree.add_root()
    tree.append(root, PROMPT)
    tree.seal(root)
    decode_bytes, decode_flops = passes(tree, [root], PROMPT, POLICY)  # the prompt
    prm_bytes, prm_flops = passes(tree, [root], PROMPT, PRM)
    leaves, slots = tree.fork(root, n), 0
    for step in range(STEPS):
        for leaf in leaves:
            tree.append(leaf, STEP // 2)
        moved, flops = passes(tree, leaves, 1, POLICY)
        decode_bytes, decode_flops = decode_bytes + STEP * moved, decode_flops + STEP * flops
        for leaf in leaves:
            tree.append(leaf, STEP - STEP // 2)
            tree.seal(leaf)
        moved, flops = passes(tree, leaves, STEP, PRM)
        prm_bytes, prm_flops = prm_bytes + moved, prm_flops + flops
        slots = max(slots, tree.held_slots)
        if step + 1 < STEPS:
            kept = rng.sample(leaves, max(1, n // EXPAND))
            children = [child for leaf in kept for child in tree.fork(leaf, n // len(kept))]
            for leaf in leaves:
                tree.prune(leaf)
            leaves = children
    return Work(decode_bytes, decode_flops, prm_bytes, prm_flops, slots)


def seconds(gpu: Gpu, moved: float, flops: float, passes_: int) -> tuple[float, float]:
    """Best and worst: every pass is bound by the slower of its bytes and its FLOPs, passes being alike."""
    low, high = (
        max(moved / passes_ / (gpu.bandwidth * b), flops / passes_ / (gpu.peak * p)) * passes_
        for b, p in zip(BANDWIDTH_SHARE, PEAK_SHARE, strict=True)
    )
    return low, high


def table() -> str:
    """The table of the document, as Markdown."""
    lines = [
        "| GPU | N | decode iteration, ms | PRM pass, ms | search, s | problems/h | KV of both, GB |",
        "|---|---|---|---|---|---|---|",
    ]
    works = {n: search(n) for n in (16, 64, 256)}
    for gpu in GPUS:
        for n, work in works.items():
            decode = seconds(gpu, work.decode_bytes, work.decode_flops, STEP * STEPS)
            prm = seconds(gpu, work.prm_bytes, work.prm_flops, STEPS)
            total = decode[0] + prm[0], decode[1] + prm[1]
            kv = work.kv_slots * (POLICY.slot_bytes + PRM.slot_bytes) / 1e9
            cells = [
                span(decode[0] * 1e3 / (STEP * STEPS), decode[1] * 1e3 / (STEP * STEPS)),
                span(prm[0] * 1e3 / STEPS, prm[1] * 1e3 / STEPS),
                span(*total),
                f"{three(3600 / total[1])} to {three(3600 / total[0])}",
                three(kv) + ("" if work.memory() < 0.95 * gpu.memory else " (does not fit)"),
            ]
            lines.append(f"| {gpu.name} | {n} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def three(value: float) -> str:
    """Three digits."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def span(low: float, high: float) -> str:
    """ "1.2 to 1.5"."""
    return f"{three(low)} to {three(high)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with docs/gpu.md")
    found = table()
    if not parser.parse_args().check:
        print(found)
        return
    said = DOCUMENT.read_text().split(BEGIN)[1].split(END)[0].strip()
    if said != found:
        sys.exit(f"{DOCUMENT.name} differs from what was computed:\n{found}")


if __name__ == "__main__":
    main()
