"""Decoding and whole searches through the public engine, and over vLLM beside it."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.engines import checked
from benchmarks.gpu.vllm_steps import vllm_search
from branchwise.api import Engine
from branchwise.assets import asset_path
from branchwise.types import Problem

TOKENS = 128  # of a sample
QUESTION = "How many positive divisors does 2^4 * 3^2 * 5 have? Explain every step."
PROBLEMS = 10
SEARCHES, EXPAND = (("beam", 16), ("beam", 64), ("dvts", 64)), 4


def bundled_problems(count: int) -> list[Problem]:
    """The first held-out problems."""
    lines = asset_path("problems.jsonl").read_text().splitlines()[:count]
    return [Problem(each["id"], each["problem"], answer=each["answer"]) for each in map(json.loads, lines)]


def decode_speed(device: str, policy: str | None, tiny: bool) -> Iterator[dict[str, Any]]:
    """N samples of one prompt: tokens/s."""
    for n in (2,) if tiny else (16, 64, 256):
        with Engine(policy, device=device, max_tokens=8 if tiny else TOKENS) as engine:
            question = QUESTION if policy else bundled_problems(1)[0].text
            if not tiny:
                engine.solve(question, "majority", n=n)  # compiles and records
            begin = time.perf_counter()
            result = engine.solve(question, "majority", n=n)
            spent = time.perf_counter() - begin
            stats = engine.policy.runner.stats
            yield {
                "kind": "decode",
                "policy": policy or "bundled",
                "n": n,
                "tokens": result.cost.generated_tokens,
                "tokens_per_s": result.cost.generated_tokens / spent,
                "attention_path": dict(stats.attention_path),
            }


def problems_for(policy: str | None) -> list[Problem]:
    """The bundled problems, in words where another model is to read them."""
    problems = bundled_problems(PROBLEMS)
    if policy is None:
        return problems
    return [Problem(each.id, f"Compute {each.text[:-2]}.", answer=each.answer) for each in problems]


def search_speed(device: str, policy: str | None, prm: str | None, tiny: bool) -> Iterator[dict[str, Any]]:
    """Beam search and DVTS: problems/h, tokens, accuracy."""
    problems = bundled_problems(1) if tiny else problems_for(policy)
    for strategy, n in (("beam", 2),) if tiny else SEARCHES:
        with Engine(policy, prm, device=device) as engine:
            begin = time.perf_counter()
            results = checked(engine.solve_many(problems, strategy, n=n, expand=2 if tiny else EXPAND))
            spent = time.perf_counter() - begin
        yield {
            "kind": "search",
            "engine": "branchwise",
            "policy": policy or "bundled",
            "prm": prm or "bundled",
            "strategy": strategy,
            "n": n,
            "problems_per_h": len(results) / spent * 3600,
            "right": sum(bool(result.correct) for result in results) / len(results),
            "tokens": sum(result.cost.generated_tokens for result in results),
            "prm_tokens": sum(result.cost.prm_tokens for result in results),
            "seconds": spent,
        }


def vllm_searches(device: str, policy: str, prm: str) -> Iterator[dict[str, Any]]:
    """The searches of `search_speed` over vLLM."""
    if importlib.util.find_spec("vllm") is None:
        return
    for strategy, n in SEARCHES:
        yield in_child(vllm_search, policy, prm, device, problems_for(policy), strategy, n, EXPAND)


def in_child(function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """In a process of its own: vLLM keeps its memory until its process ends."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def vllm_speed(policy: str) -> dict[str, Any]:
    """vLLM's tokens/s for the samples of `decode_speed` at N = 64, or why there are none."""
    if importlib.util.find_spec("vllm") is None:
        return {"kind": "vllm", "skipped": "not installed: pip install vllm"}
    from vllm import LLM, SamplingParams

    model = LLM(policy, dtype="bfloat16", enable_prefix_caching=True)
    wish = SamplingParams(n=64, temperature=0.8, max_tokens=TOKENS)
    chat = [{"role": "user", "content": QUESTION}]
    model.chat(chat, wish)
    begin = time.perf_counter()
    outputs = model.chat(chat, wish)[0].outputs
    spent = time.perf_counter() - begin
    tokens = sum(len(output.token_ids) for output in outputs)
    return {"kind": "vllm", "policy": policy, "n": 64, "tokens": tokens, "tokens_per_s": tokens / spent}
