"""What weights of 4 to 8 bits cost in accuracy: perplexity of a text, agreement with dense weights, greedy answers.

PYTHONPATH=. python benchmarks/quality/bench_weights.py --policy model.gguf --problems gsm8k.jsonl --limit 100 --save
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import branchwise as bw
from benchmarks import common
from benchmarks.options import POLICY
from branchwise.assets import asset_path
from branchwise.cli.problems import read_rows
from branchwise.config import Weights
from branchwise.engine.kv import KvCache
from branchwise.models.decoder import Decoder
from branchwise.report.intervals import wilson
from branchwise.types import Problem

FORMS: tuple[Weights, ...] = ("dense", "stored", "int8", "q8", "q4")
WINDOW, CHUNK = 1024, 128  # tokens that see each other, tokens whose logits are held at once


def log_probabilities(model: Decoder, tokens: list[int]) -> Iterator[Tensor]:
    """[tokens, vocab] fp32 after the tokens of each chunk of a text, in windows that start afresh."""
    assert model.head is not None
    for begin in range(0, len(tokens), WINDOW):
        window = tokens[begin : begin + WINDOW]
        kv = KvCache(model.config, len(window) // model.backend.block_slots + 2, model.dtype, model.backend)
        node = kv.tree.add_root()
        model.rope.cover(len(window))
        for at in range(0, len(window), CHUNK):
            part = window[at : at + CHUNK]
            kv.tree.append(node, len(part))
            plan = kv.planner.build(np.array([node], np.int64), np.array([len(part)], np.int32))
            hidden = model.forward(torch.tensor(part), plan, kv.pool)
            yield torch.cat([tile(hidden).float() for tile in model.head], dim=1).log_softmax(1)


def read_text(model: Decoder, tokens: list[int]) -> tuple[float, Tensor]:
    """Perplexity, and the likeliest word after every token. The first token of a window is not counted."""
    loss, counted, words = 0.0, 0, []
    for index, logprobs in enumerate(log_probabilities(model, tokens)):
        at = index * CHUNK
        words.append(logprobs.argmax(1))
        n = min(len(logprobs), len(tokens) - at - 1)
        if (at + n) % WINDOW == 0:
            n -= 1  # what follows is in the next window
        nexts = torch.tensor(tokens[at + 1 : at + 1 + n])
        loss -= logprobs[:n].gather(1, nexts[:, None]).sum().item()
        counted += n
    return float(np.exp(loss / counted)), torch.cat(words)


def measure(policy: str, form: Weights, text: str, problems: list[Problem], max_tokens: int) -> dict[str, Any]:
    """One form of the weights: what the model makes of the text and of the problems."""
    with bw.Engine(policy, weights=form, max_tokens=max_tokens) as engine:
        tokens = engine.policy.tokenizer.encode(text)
        perplexity, words = read_text(engine.policy.model, tokens)
        results = list(engine.solve_many(problems, strategy="greedy", max_in_flight=64))
        right = sum(bool(result.correct) for result in results)
        low, high = wilson(right, len(results))
        return {
            "policy": Path(policy).stem,
            "weights": form,
            "dtype": engine.resolved.dtype,
            "tokens": len(tokens),
            "perplexity": round(perplexity, 4),
            "words": words,
            "problems": len(results),
            "right": right,
            "interval": [round(low, 3), round(high, 3)],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default=str(POLICY), help="folder, .gguf file or hub id")
    parser.add_argument("--problems", type=Path, help='JSON lines: "id", "problem", "answer"; default: bundled ones')
    parser.add_argument("--limit", type=int, default=100, help="problems to answer greedily (default: 100)")
    parser.add_argument("--max-tokens", type=int, default=320, help="tokens of an answer at most (default: 320)")
    parser.add_argument("--text", type=Path, help="text to read (default: the problems' own words)")
    parser.add_argument("--text-chars", type=int, default=40_000, help="characters of it (default: 40,000)")
    parser.add_argument("--weights", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--save", action="store_true", help="append to benchmarks/results/quality.jsonl")
    parser.add_argument("--quick", action="store_true", help="a bundled policy and little work")
    options = parser.parse_args()
    if options.quick:
        options.policy, options.problems = str(asset_path("policy-small")), None
        options.limit, options.text_chars = 4, 300
    if not Path(options.policy).exists():
        parser.exit(0, f"skipped: no model at {options.policy}; name one with --policy\n")
    rows = read_rows(options.problems or asset_path("problems.jsonl"))
    problems = [row for row in rows if isinstance(row, Problem)]
    text = options.text.read_text() if options.text else "\n\n".join(problem.text for problem in problems)
    text = text[: options.text_chars]
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    dense: Tensor | None = None
    for form in options.weights:
        record = measure(options.policy, form, text, problems[: options.limit], options.max_tokens)
        words = record.pop("words")
        dense = words if form == "dense" else dense
        record["same_word_as_dense"] = None if dense is None else round((words == dense).float().mean().item(), 4)
        record["text_sha256"] = digest
        print(record, flush=True)
        if options.save:
            common.append("quality", [record])


if __name__ == "__main__":
    main()
