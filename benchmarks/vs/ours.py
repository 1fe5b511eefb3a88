"""branchwise as one side of a comparison."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

import branchwise as bw
from benchmarks.engines import checked, growing
from benchmarks.vs.protocol import Json, serve
from benchmarks.vs.taped import taped
from benchmarks.vs.workloads import TEMPERATURE, SearchTask
from branchwise import _C
from branchwise.pair.pair import ModelPair
from branchwise.scoring.scorer import Scorer
from branchwise.search.driver import run
from branchwise.search.service import Service
from branchwise.search.session import SearchOptions
from branchwise.strategies import make_strategy
from branchwise.strategies.candidates import ended
from branchwise.types import Node, Problem, Result, Sampling, Settings


class Ours:
    """One engine; what is asked of it is timed inside, without loading."""

    def __init__(self, policy: str, prm: str | None, **options: Any) -> None:
        limits = {"max_tokens": 1 << 20, "max_step_tokens": 1 << 20}
        self.engine = bw.Engine(policy, prm, **limits, **options)
        self.options = options

    def about(self) -> Json:
        """Versions and settings."""
        return {
            "versions": {"branchwise": bw.__version__, "torch": torch.__version__},
            "flags": {**self.options, "isa": _C.isa(), "threads": torch.get_num_threads()},
        }

    def sampling(self, prompt: list[int], rows: int, tokens: int, top_p: float, seed: int) -> Json:
        """`rows` samples of `tokens` tokens each; the end-of-sequence token is a token like any other."""
        policy = self.engine.policy
        done: list[Any] = []
        begin = time.perf_counter()
        with growing(policy, prompt, rows, tokens, Sampling(TEMPERATURE, top_p), seed):
            while len(done) < rows:
                done += policy.poll()
            seconds = time.perf_counter() - begin
        return {"seconds": seconds, "tokens": sum(len(node.tokens) for _, node in done)}

    def requests(self, prompts: list[list[int]], caps: list[int], top_p: float) -> Json:
        """A sample of each prompt, of `caps` tokens, all asked for at once; no prompt is known from before."""
        self.engine.policy.kv.prefixes.clear()
        options: Json = {"temperature": TEMPERATURE, "top_p": top_p, "stop": [], "ignore_eos": True}
        begin = time.perf_counter()
        asked = [
            self.engine.submit_completion(prompt, max_tokens=cap, **options)
            for prompt, cap in zip(prompts, caps, strict=True)
        ]
        done = [ticket.result() for ticket in asked]
        seconds = time.perf_counter() - begin
        return {
            "seconds": seconds,
            "tokens": sum(len(each.samples[0].tokens) for each in done),
            "fed_prompt_tokens": sum(each.cost.prefill_tokens for each in done),
        }

    def search(self, task: Json, record: bool = False) -> Json:
        """A search; with `record`, the reply holds the tape that makes others grow the same trees."""
        work = SearchTask.from_json(task)
        policy, judge = self.engine.policy, self.engine.judge
        assert judge is not None
        if work.tape:
            policy, judge = taped(policy, judge, work)
        problems = [Problem(each.id, each.text, prompt=each.prompt) for each in work.questions]
        strategy = make_strategy(work.strategy, n=work.n, expand=work.expand, max_steps=work.max_steps)
        settings = Settings(
            Sampling(TEMPERATURE, work.top_p), max_tokens=work.max_tokens, max_step_tokens=work.max_step_tokens,
            seed=work.seed, reuse=False,
        )  # fmt: skip
        service = Service(ModelPair(policy, judge, instruction=""))
        before, prm_rows = replace(policy.runner.stats), judge.runner.stats.rows
        with prm_watched(judge) as prm_seconds:
            begin = time.perf_counter()
            results = checked(run(problems, service, SearchOptions(strategy, settings), max_in_flight=work.in_flight))
            seconds = time.perf_counter() - begin
        rows, prm_rows = policy.runner.stats.rows - before.rows, judge.runner.stats.rows - prm_rows
        iterations = policy.runner.stats.iterations - before.iterations
        width = work.n * min(work.in_flight, len(work.questions))
        generated = sum(result.cost.generated_tokens for result in results)
        return {
            "seconds": seconds,
            "problem_seconds": [result.cost.seconds for result in results],
            "generated_tokens": generated,
            "accepted_tokens": sum(accepted(result.tree) for result in results),
            "recomputed_tokens": rows - sum(map(needed_tokens, results)),
            "prm_tokens": prm_rows,
            "prm_recomputed_tokens": max(0, prm_rows - sum(result.cost.prm_tokens for result in results)),
            "prm_seconds": sum(prm_seconds),
            "row_occupancy": generated / max(1, iterations * width),
            "kv_bytes_read": sum(result.cost.kv_bytes_read for result in results),
            "solutions": [solution(result) for result in results],
            **({"tape": {result.problem.id: nodes(result.tree, work) for result in results}} if record else {}),
        }


@contextmanager
def prm_watched(judge: Scorer) -> Iterator[list[float]]:
    """The seconds of every call of `Scorer.poll`."""
    seconds: list[float] = []

    def poll(**when: Any) -> list[Node]:
        begin = time.perf_counter()
        done = type(judge).poll(judge, **when)
        seconds.append(time.perf_counter() - begin)
        return done

    judge.poll = poll  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        del judge.poll


def below(root: Node) -> list[Node]:
    """All steps of a tree."""
    return [node for child in root.children for node in (child, *below(child))]


def accepted(root: Node) -> int:
    """Tokens of the steps that were continued or finished."""
    return sum(len(node.tokens) for node in below(root) if not node.pruned)


def needed_tokens(result: Result) -> int:
    """Tokens that must go through the policy: every one once, those left out that nothing follows."""
    steps = below(result.tree)
    continued = sum(bool(step.children) for step in steps)
    return result.tree.cost.prefill_tokens + sum(len(step.tokens) - 1 for step in steps) + continued


def nodes(root: Node, task: SearchTask) -> Json:
    """What a tape holds of a tree."""
    return {
        ".".join(map(str, node.lineage_path)): [
            len(node.tokens), -1.0 if node.score is None else node.score, ended(node, task.max_steps)
        ]
        for node in below(root)
    }  # fmt: skip


def solution(result: Result) -> Json:
    """The finished branches, as the other sides report theirs."""
    branches = [[each.text, -1.0 if each.score is None else each.score] for each in result.candidates]
    return {"id": result.problem.id, "branches": branches}


if __name__ == "__main__":
    serve(Ours)
