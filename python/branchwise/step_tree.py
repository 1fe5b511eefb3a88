"""A tree grown by hand: expand, score and prune, for frameworks that bring their own search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from branchwise.config import check_sampling
from branchwise.engine.branch import StepLimits
from branchwise.errors import ConfigError, OutOfMemory
from branchwise.search.scored_engine import ScoredEngine, ScoredTree
from branchwise.types import Node, Problem, Sampling


class StepTree:
    """The steps of one prompt. Use it as a context manager: leaving frees its KV.

    `root` holds the prompt. Nodes carry tokens, text, logprob, score, finish, parent and cost.
    """

    def __init__(self, backend: ScoredEngine, problem: Problem, branches: int, sampling: Sampling, seed: int) -> None:
        self._backend = backend
        opened = backend.open(problem, branches, branches, sampling, seed, use_scores=backend.scorer is not None)
        if opened is None:
            raise OutOfMemory("other trees hold the KV that this one needs: close one, or raise kv_memory")
        self._tree: ScoredTree = opened
        opened.policy.speculates = False  # every call may sample in its own way
        self._limits = opened.policy.limits

    @property
    def root(self) -> Node:
        """The prompt."""
        return self._tree.root

    def expand(
        self, node: Node, n: int = 1, *, stop: str | None = None, max_tokens: int | None = None,
        temperature: float | None = None, top_p: float | None = None, top_k: int | None = None,
        min_p: float | None = None,
    ) -> list[Node]:  # fmt: skip
        """`n` more children of a node, each one step long, decoded together.

        stop: text that ends a step    max_tokens: of one step
        StaleNodeError: the node was pruned or has ended. OutOfMemory: no KV left; the tree stays as it was.
        """
        options = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
        given = {name: value for name, value in options.items() if value is not None}
        policy, engine = self._tree.policy, self._backend.engine
        sampling = replace(policy.sampling, **given)  # type: ignore[arg-type]
        check_sampling(sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p)
        if max_tokens is not None and max_tokens < 1:
            raise ConfigError(f"max_tokens={max_tokens}: a step needs at least 1")
        before, detector = (policy.sampling, policy.limits), policy.detector
        policy.sampling = sampling
        policy.limits = StepLimits(self._limits.max_tokens, max_tokens or self._limits.max_step_tokens)
        policy.detector = engine.detector(stop) if stop else detector
        first = len(node.children)
        try:
            engine.expand(policy, node, n)
            while not engine.idle:
                self._backend.poll()
        except OutOfMemory:
            for child in node.children[first:]:
                engine.prune(policy, child)
            engine.cancel(policy)
            del node.children[first:]
            raise
        finally:
            (policy.sampling, policy.limits), policy.detector = before, detector
        return node.children[first:]

    def score(self, nodes: Sequence[Node]) -> list[float | None]:
        """P(good) of every step, `None` for one without text. ConfigError without a PRM."""
        waiting = [node for node in nodes if node.score is None]
        self._backend.score(self._tree, waiting)
        scorer = self._backend.scorer
        while scorer is not None and not scorer.idle:
            self._backend.poll()
        return [node.score for node in nodes]

    def prune(self, node: Node) -> None:
        """Free a node and everything under it."""
        for child in node.children:
            self.prune(child)
        node.pruned = True
        self._backend.prune(self._tree, node)

    def close(self) -> None:
        """Free the tree; again, it does nothing."""
        self._backend.close(self._tree)

    def __enter__(self) -> StepTree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
