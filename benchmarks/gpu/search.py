"""Whole searches over models of random weights: a tape says where steps end and what they score, all work is done."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from benchmarks.engines import checked
from benchmarks.gpu import synthetic
from benchmarks.gpu.stages import Bench, Record, Skipped
from benchmarks.gpu.watch import Watch
from benchmarks.vs.taped import taped
from benchmarks.vs.workloads import Question, SearchTask, Tape
from branchwise.backend.gpu.backend import TritonBackend
from branchwise.backend.select import open_backend
from branchwise.pair.pair import ModelPair
from branchwise.scoring.scorer import Scorer
from branchwise.search.driver import run
from branchwise.search.service import Service
from branchwise.search.session import SearchOptions
from branchwise.strategies import make_strategy
from branchwise.types import Problem, Sampling, Settings

LENGTH, STEPS, EXPAND = 60, 20, 4  # tokens of a step, steps of a branch, children of a kept node
MODELS = ("qwen2.5-1.5b", "qwen2.5-7b")


def search(bench: Bench) -> Iterator[Record]:
    """Beam search and DVTS at N = 16, 64 and 256, each once before the clock runs."""
    backend = open_backend(bench.device)
    assert isinstance(backend, TritonBackend)
    policy_name, prm_name = ("tiny", "tiny") if bench.tiny else MODELS
    dtype = torch.float32 if bench.tiny else torch.bfloat16
    if not bench.tiny and not synthetic.fits(prm_name, backend, dtype, others=4 << 30):
        raise Skipped(f"{policy_name} with {prm_name} as PRM does not fit")
    watch = Watch(backend)
    memory = (64 << 20) if bench.tiny else backend.kv_budget() // 4
    policy = synthetic.policy(policy_name, backend, dtype, memory)
    judge = synthetic.judge(prm_name, backend, dtype, memory)
    wanted = ((16, "beam"), (64, "beam"), (256, "dvts"), (64, "dvts"), (256, "beam"), (16, "dvts"))
    for n, strategy in ((2, "beam"),) if bench.tiny else wanted:
        shape = (3, 2) if bench.tiny else (LENGTH, STEPS)
        task = searches(strategy, n, synthetic.prompt_tokens(policy_name), *shape, problems=1 if bench.tiny else 2)
        forced, forced_judge = taped(policy, judge, task)
        watch.runner(forced.runner)
        watch.runner(forced_judge.runner)
        for _ in range(1 if bench.tiny else 2):
            watch.clear()
            begin = time.perf_counter()
            results = solve(ModelPair(forced, forced_judge, instruction=""), task)
            spent = time.perf_counter() - begin
        yield {
            "kind": "search",
            "policy": policy_name,
            "prm": prm_name,
            "strategy": strategy,
            "n": n,
            "problems_per_h": len(results) / spent * 3600,
            "seconds": spent,
            "busy": watch.busy() / spent,
            "replays": len(watch.intervals("replays")),
            "passes": len(watch.intervals("passes")),
            "tokens": sum(result.cost.generated_tokens for result in results),
            "prm_tokens": sum(result.cost.prm_tokens for result in results),
            "right": all(len(result.candidates) == n for result in results),
        }


def searches(strategy: str, n: int, prompt: list[int], length: int, steps: int, problems: int) -> SearchTask:
    """Some problems under a tape of steps of one length."""
    text = str(len(prompt))  # what the PRM is told
    questions = [Question(f"problem {i}", text, None, "", prompt, [], [], []) for i in range(problems)]
    tape, expand = Tape(None, length, steps), min(EXPAND, n)
    return SearchTask(strategy, n, expand, questions, steps, length * steps, length, problems, tape=tape)


def solve(pair: ModelPair[Scorer], task: SearchTask) -> list:
    """All problems of a task side by side."""
    problems = [Problem(each.id, each.text, prompt=each.prompt) for each in task.questions]
    settings = Settings(
        Sampling(0.8), max_tokens=task.max_tokens + 1, max_step_tokens=task.max_step_tokens + 1, reuse=False
    )
    options = SearchOptions(
        make_strategy(task.strategy, n=task.n, expand=task.expand, max_steps=task.max_steps), settings
    )
    return checked(run(problems, Service(pair), options, max_in_flight=task.in_flight))
