"""vLLM in the place of the step engine: the same strategies, driver and PRM, with every step sampled by vLLM.

What a user of vLLM would write: each level of the tree is one `generate` call over prompt + path, stopped at the
delimiter, with prefix caching on. The PRM is branchwise's own, incremental one, which favours vLLM.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from branchwise._C import lineage_child
from branchwise.api import INSTRUCTION, Engine
from branchwise.engine.branch import StepLimits
from branchwise.search.driver import run
from branchwise.search.scored_engine import ScoredEngine
from branchwise.strategies.registry import make_strategy
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Cost, Finish, Node, Problem, Sampling
from branchwise.weights import open_checkpoint

MEMORY_SHARE = 0.45  # of the GPU for vLLM; the PRM takes the rest


@dataclass(eq=False)
class VllmTree:
    """One problem."""

    root: Node
    prompt: list[int]
    limits: StepLimits
    sampling: Sampling
    delimiter: str
    cost: Cost = field(default_factory=Cost)


class VllmSteps:
    """As much of `branchwise.engine.engine.StepEngine` as `ScoredEngine` needs; llm: a `vllm.LLM`."""

    flops_per_token = 0.0
    overlaps = True  # all that waits is generated in one call: nothing is gained by letting scores wait

    def __init__(self, llm: Any, wish: Any, tokenizer: Tokenizer) -> None:
        self.llm, self.wish, self.tokenizer = llm, wish, tokenizer
        self._queue: list[tuple[VllmTree, Node, int]] = []

    def open(
        self, prompt: Sequence[int], *, lineage: int, branches: int, max_steps: int, limits: StepLimits,
        sampling: Sampling, seed: int, delimiter: str, kept: int | None = None,
    ) -> VllmTree:  # fmt: skip
        root = Node(id=0, parent=None, index=0, depth=0, lineage=lineage)
        return VllmTree(root, list(prompt), limits, sampling, delimiter)

    def expand(self, tree: VllmTree, node: Node, n: int) -> None:
        self._queue.append((tree, node, n))

    def prune(self, tree: VllmTree, node: Node) -> None:
        """vLLM evicts what it no longer needs by itself."""

    def close(self, tree: VllmTree) -> None:
        self._queue = [item for item in self._queue if item[0] is not tree]

    def begin(self) -> None:
        """vLLM decodes inside `generate` only."""

    @property
    def idle(self) -> bool:
        return not self._queue

    def poll(self) -> list[tuple[VllmTree, Node]]:
        """One `generate` call for everything that waits."""
        queue, self._queue = self._queue, []
        if not queue:
            return []
        paths = [[token for step in node.path for token in step.tokens] for _, node, _ in queue]
        prompts = [{"prompt_token_ids": tree.prompt + path} for (tree, _, _), path in zip(queue, paths, strict=True)]
        wishes = [self._wish(tree, len(path), n) for (tree, _, n), path in zip(queue, paths, strict=True)]
        done = self.llm.generate(prompts, wishes, use_tqdm=False)
        found = []
        for (tree, node, _), path, request in zip(queue, paths, done, strict=True):
            for output in request.outputs:
                found.append((tree, self._child(tree, node, output, len(path))))
        return found

    def _wish(self, tree: VllmTree, used: int, n: int) -> Any:
        sampling = tree.sampling
        return self.wish(
            n=n, temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k or -1,
            min_p=sampling.min_p, stop=[tree.delimiter], include_stop_str_in_output=True,
            max_tokens=min(tree.limits.max_step_tokens, tree.limits.max_tokens - used),
        )  # fmt: skip

    def _child(self, tree: VllmTree, node: Node, output: Any, used: int) -> Node:
        index = len(node.children)
        lineage = lineage_child(node.lineage, index)
        child = Node(id=index, parent=node, index=index, depth=node.depth + 1, lineage=lineage)
        node.children.append(child)
        child.tokens, child.text = list(output.token_ids), output.text
        child.cost.generated_tokens = len(child.tokens)
        child.finish = self._finish(tree, child, output.finish_reason, used)
        return child

    def _finish(self, tree: VllmTree, child: Node, reason: str, used: int) -> Finish:
        if not child.tokens or child.tokens[-1] in self.tokenizer.eos_ids:
            return "eos"
        if reason != "stop" or used + len(child.tokens) >= tree.limits.max_tokens:
            return "length"
        return "stop" if tree.delimiter in child.text else "eos"


def vllm_search(
    policy: str, prm: str, device: str, problems: list[Problem], strategy: str, n: int, expand: int
) -> dict[str, Any]:
    """One search of every problem, its steps from vLLM: what `search_speed` reports of our own engine."""
    from vllm import LLM, SamplingParams

    llm = LLM(policy, dtype="bfloat16", enable_prefix_caching=True, gpu_memory_utilization=MEMORY_SHARE)
    steps: Any = VllmSteps(llm, SamplingParams, open_checkpoint(policy).tokenizer())
    with Engine(None, prm, device=device) as engine:  # for its PRM; the bundled policy beside it idles
        limits = StepLimits(engine.config.max_tokens, engine.config.max_step_tokens)
        scored = ScoredEngine(
            steps, engine.judge, limits=limits, delimiter=engine.config.delimiter, instruction=INSTRUCTION
        )
        chosen = make_strategy(strategy, n=n, expand=expand)
        begin = time.perf_counter()
        results = list(run(problems, chosen, scored, max_in_flight=max(1, engine.config.max_rows // n)))
        spent = time.perf_counter() - begin
    return {
        "kind": "search",
        "engine": "vllm, PRM of branchwise",
        "policy": policy,
        "prm": prm,
        "strategy": strategy,
        "n": n,
        "problems_per_h": len(results) / spent * 3600,
        "tokens": sum(result.cost.generated_tokens for result in results),
        "seconds": spent,
    }
