"""vLLM in the place of the policy: the same strategies, service and PRM, with every step sampled by vLLM.

What a user of vLLM would write: each level of the tree is one `generate` call over prompt + path, stopped at the
delimiter, with prefix caching on. The PRM is branchwise's own, incremental one, which favours vLLM.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.engines import bundled_problems, checked
from branchwise._C import lineage_child
from branchwise.api import Engine
from branchwise.engine.rows import RowLoad
from branchwise.errors import ConfigError, InputError, StaleNodeError
from branchwise.models.config import decoder_config
from branchwise.pair.pair import ModelPair
from branchwise.pair.prompts import INSTRUCTION
from branchwise.search.driver import run
from branchwise.search.service import Service
from branchwise.search.session import SearchOptions
from branchwise.strategies import make_strategy
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Cost, FinishReason, Node, Problem, Settings, StepOptions
from branchwise.weights import open_checkpoint

PROBLEMS = 10
MEMORY_SHARE = 0.45  # of the GPU for vLLM; the PRM takes the rest


@dataclass(eq=False)
class VllmTree:
    """One problem, as `pair.protocol.PolicyTree`. vLLM does not tell its costs: `cost` has what was cancelled."""

    root: Node
    prompt: list[int]
    settings: Settings
    width: int
    lease: None = None  # vLLM shares its memory out by itself
    cost: Cost = field(default_factory=Cost)
    asked: dict[Node, int] = field(default_factory=dict)  # children asked for so far, of every node that may be asked


@dataclass(frozen=True)
class Wish:
    """Children `first` to `first + n` of a node."""

    tree: VllmTree
    node: Node
    first: int
    n: int
    options: StepOptions


class VllmSteps:
    """`pair.protocol.Policy` over a `vllm.LLM`: one `generate` call for all that waits.

    params: `vllm.SamplingParams`    context: tokens that the model can see
    Log-probabilities are not asked for, as they cost time and no strategy reads them: those of all steps are 0.
    """

    flops_per_token = 0.0
    source = "vLLM"
    overlaps = True  # all that waits is generated in one call: nothing is gained by letting scores wait

    def __init__(self, llm: Any, params: Any, tokenizer: Tokenizer, context: int) -> None:
        self.llm, self.params, self.tokenizer, self.context = llm, params, tokenizer, context
        self._queue: list[Wish] = []

    @property
    def idle(self) -> bool:
        return not self._queue

    @property
    def load(self) -> RowLoad:
        """All that waits is begun by the next call, so there are as many rows."""
        openings: list[Any] = [(wish.tree, wish.n) for wish in self._queue]
        return RowLoad(sum(n for _, n in openings), [], openings)

    def open(
        self, prompt: Sequence[int], *, lineage: int, branches: int, paths: int, steps: int | None, settings: Settings
    ) -> VllmTree:
        room = self.context - len(prompt)
        if not prompt or room < 2:
            raise InputError(f"the prompt has {len(prompt)} tokens, the model's context is {self.context}")
        root = Node(id=0, parent=None, index=0, depth=0, lineage=lineage)
        root.cost.prefill_tokens = len(prompt)
        if room < settings.max_tokens:
            settings = replace(settings, max_tokens=room, limit="context")
        return VllmTree(root, list(prompt), settings, branches, asked={root: 0})

    def plant(self, tree: VllmTree, node: Node, prompt: Sequence[int], settings: Settings) -> Node:
        raise ConfigError("further prompts are not compared: take a strategy that plants none")

    def expand(self, tree: VllmTree, node: Node, n: int, options: StepOptions) -> int:
        if options.feed:
            raise ConfigError("given text is not compared: take a strategy that feeds none")
        if node not in tree.asked or node.is_final:
            raise StaleNodeError(f"node {node.lineage_path} was pruned, or it has ended")
        first = tree.asked[node]
        tree.asked[node] += n
        self._queue.append(Wish(tree, node, first, n, options))
        return first

    def prune(self, tree: VllmTree, node: Node) -> None:
        """vLLM evicts by itself what it no longer needs."""
        tree.asked.pop(node, None)
        self._queue = [wish for wish in self._queue if wish.node is not node]

    def cancel(self, tree: VllmTree, parent: Node, first: int, n: int) -> list[Node]:
        wanted = range(first, first + n)
        self._queue = [wish for wish in self._queue if wish.node is not parent or wish.first not in wanted]
        gone = [child for child in parent.children if child.index in wanted]
        parent.children = [child for child in parent.children if child.index not in wanted]
        for node in gone:  # grows as it is read: breadth first
            gone += node.children
            self.prune(tree, node)
            tree.cost.cancelled_tokens += len(node.tokens)
        return gone

    def close(self, tree: VllmTree) -> None:
        tree.asked.clear()
        self._queue = [wish for wish in self._queue if wish.tree is not tree]

    def begin(self) -> None:
        """vLLM decodes inside `generate` only."""

    def pause(self, tree: VllmTree) -> None:
        """vLLM pauses what it likes."""

    def resume(self, tree: VllmTree) -> None: ...

    def shed(self, tree: VllmTree) -> bool:
        """vLLM computes again what its cache lost."""
        return False

    def poll(self) -> list[tuple[VllmTree, Node]]:
        """One `generate` call for everything that waits."""
        if not self._queue:
            return []
        paths = [[token for step in wish.node.path for token in step.tokens] for wish in self._queue]
        prompts = [{"prompt_token_ids": wish.tree.prompt + path} for wish, path in zip(self._queue, paths, strict=True)]
        params = [self._params(wish, len(path)) for wish, path in zip(self._queue, paths, strict=True)]
        done = self.llm.generate(prompts, params, use_tqdm=False)
        queue, self._queue = self._queue, []
        return [
            (wish.tree, self._child(wish, index, output, len(path)))
            for wish, path, request in zip(queue, paths, done, strict=True)
            for index, output in enumerate(request.outputs, wish.first)
        ]

    def _params(self, wish: Wish, used: int) -> Any:
        sampling, options = wish.options.sampling, wish.options
        return self.params(
            n=wish.n, temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k or -1,
            min_p=sampling.min_p, repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty, frequency_penalty=sampling.frequency_penalty,
            stop=list(delimiters(options)), include_stop_str_in_output=True,
            max_tokens=min(options.max_tokens, wish.tree.settings.max_tokens - used),
        )  # fmt: skip

    def _child(self, wish: Wish, index: int, output: Any, used: int) -> Node:
        tree, parent = wish.tree, wish.node
        lineage = lineage_child(parent.lineage, index)
        child = Node(id=index, parent=parent, index=index, depth=parent.depth + 1, lineage=lineage)
        child.tokens, child.text = list(output.token_ids), output.text
        child.cost.generated_tokens = len(child.tokens)
        child.finish = self._finish(wish, child, output.finish_reason, used)
        if child.finish == "length":
            whole = used + len(child.tokens) >= tree.settings.max_tokens
            child.cut = tree.settings.limit if whole else "step_tokens"
        parent.children.append(child)
        tree.asked[child] = 0
        return child

    def _finish(self, wish: Wish, child: Node, reason: str, used: int) -> FinishReason:
        if not child.tokens or child.tokens[-1] in self.tokenizer.eos_ids:
            return "eos"
        if reason != "stop" or used + len(child.tokens) >= wish.tree.settings.max_tokens:
            return "length"
        return "stop" if any(text in child.text for text in delimiters(wish.options)) else "eos"


def delimiters(options: StepOptions) -> tuple[str, ...]:
    """What vLLM can look for: of blank lines only the plain one."""
    return options.endings.delimiters or ("\n\n",)


def vllm_search(
    policy: str, prm: str, device: str, problems: list[Problem], strategy: str, n: int, expand: int
) -> dict[str, Any]:
    """One search of every problem, its steps from vLLM."""
    from vllm import LLM, SamplingParams

    llm = LLM(policy, dtype="bfloat16", enable_prefix_caching=True, gpu_memory_utilization=MEMORY_SHARE)
    checkpoint = open_checkpoint(policy)
    context = decoder_config(checkpoint.config, policy).max_positions
    steps = VllmSteps(llm, SamplingParams, checkpoint.tokenizer(), context)
    with Engine(None, prm, device=device) as engine:  # for its PRM; the bundled policy beside it idles
        service = Service(ModelPair(steps, engine.judge, instruction=INSTRUCTION))
        options = SearchOptions(make_strategy(strategy, n=n, expand=expand), Settings())
        begin = time.perf_counter()
        results = checked(run(problems, service, options, max_in_flight=max(1, engine.config.max_rows // n)))
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


def main() -> None:
    """vLLM's steps judged by our PRM, over real checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", help="folder or hub id")
    parser.add_argument("prm", help="folder, .gguf file or hub id of a PRM")
    parser.add_argument("--strategy", default="beam", help="beam or dvts (default: beam)")
    parser.add_argument("--n", type=int, default=64, help="branches (default: 64)")
    args = parser.parse_args()
    asked = bundled_problems(PROBLEMS)
    problems = [replace(problem, text=f"Compute {problem.text[:-2]}.") for problem in asked]  # in words
    print(json.dumps(vllm_search(args.policy, args.prm, "cuda", problems, args.strategy, args.n, expand=4)))


if __name__ == "__main__":
    main()
