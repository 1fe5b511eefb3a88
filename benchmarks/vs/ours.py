"""branchwise as one side of a comparison."""

from __future__ import annotations

import time
from typing import Any

import torch

import branchwise as bw
from benchmarks.vs.protocol import Json, serve
from benchmarks.vs.taped import taped
from benchmarks.vs.workloads import TEMPERATURE, SearchTask
from branchwise import _C
from branchwise.engine.branch import StepLimits
from branchwise.scoring.scorer import Scorer
from branchwise.search.scored_engine import ScoredEngine
from branchwise.strategies.candidates import ended
from branchwise.types import Node, Problem, Result, Sampling


class Ours:
    """One engine; `sampling` and `search` are timed inside, without loading."""

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
        steps = self.engine.policy
        eos, steps.tokenizer.eos_ids = steps.tokenizer.eos_ids, frozenset()
        begin = time.perf_counter()
        tree = steps.open(
            prompt, lineage=1, branches=rows, max_steps=1, limits=StepLimits(tokens, tokens),
            sampling=Sampling(TEMPERATURE, top_p), seed=seed, delimiter="\0never\0",
        )  # fmt: skip
        assert tree is not None
        steps.expand(tree, tree.root, rows)
        done: list[Any] = []
        while len(done) < rows:
            done += steps.poll()
        seconds = time.perf_counter() - begin
        steps.close(tree)
        steps.tokenizer.eos_ids = eos
        return {"seconds": seconds, "tokens": sum(len(node.tokens) for _, node in done)}

    def search(self, task: Json, record: bool = False) -> Json:
        """A search; with `record`, the reply holds the tape that makes others grow the same trees."""
        work = SearchTask.from_json(task)
        engine = self.engine
        plain = engine.backend
        steps, scorer = engine.policy, engine.judge
        assert scorer is not None
        if work.tape:
            steps, scorer = taped(steps, scorer, work)
        limits = StepLimits(work.max_tokens, work.max_step_tokens)
        engine.backend = ScoredEngine(
            steps, scorer, limits=limits, delimiter=plain.delimiter, instruction=plain.instruction
        )
        rows, prm_rows, iterations = steps.runner.stats.rows, scorer.runner.stats.rows, steps.runner.stats.iterations
        watch = _PrmWatch(scorer)
        begin = time.perf_counter()
        try:
            results = list(
                engine.solve_many(
                    [Problem(each.id, each.text, prompt=each.prompt) for each in work.questions], work.strategy,
                    n=work.n, expand=work.expand, max_steps=work.max_steps, max_in_flight=work.in_flight,
                    seed=work.seed, temperature=TEMPERATURE, top_p=work.top_p,
                )
            )  # fmt: skip
        finally:
            engine.backend = plain
            del scorer.poll
        seconds = time.perf_counter() - begin
        rows, prm_rows = steps.runner.stats.rows - rows, scorer.runner.stats.rows - prm_rows
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
            "prm_seconds": watch.seconds,
            "row_occupancy": generated / max(1, (steps.runner.stats.iterations - iterations) * width),
            "kv_bytes_read": sum(result.cost.kv_bytes_read for result in results),
            "solutions": [solution(result) for result in results],
            **({"tape": {result.problem.id: nodes(result.tree, work) for result in results}} if record else {}),
        }


class _PrmWatch:
    """Seconds inside `Scorer.poll`, until the attribute that it sets is deleted."""

    def __init__(self, scorer: Scorer) -> None:
        self.seconds = 0.0
        inner = scorer.poll

        def poll(**when: Any) -> list[Node]:
            begin = time.perf_counter()
            done = inner(**when)
            self.seconds += time.perf_counter() - begin
            return done

        scorer.poll = poll  # type: ignore[method-assign]


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
