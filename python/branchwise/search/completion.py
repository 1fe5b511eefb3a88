"""The job of completions: one prompt, and samples of it from their first token to a stop, the model's end or a cap."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic

from branchwise.completions import Completion, Prompt, Sample
from branchwise.confidence import TraceConfidence
from branchwise.errors import InputError
from branchwise.pair.protocol import TreeT
from branchwise.search.request import Expansion
from branchwise.search.service import Service
from branchwise.strategies.protocol import Demand
from branchwise.types import Cost, Node, Problem, PromptLogprobs, Settings, StepOptions


@dataclass(frozen=True, slots=True)
class Wanted:
    """Samples of one prompt that somebody waits for.

    seeds    one for each time that a call has the prompt; each time has n samples of its own
    options  of every sample, but for its seed    name: of the prompt in messages, where there are several
    reuse    take what is kept of the prompt, and leave prompt and samples for later ones
    prompt_logprobs  tell what the policy thinks of the prompt
    """

    prompt: Prompt | None
    n: int
    seeds: Sequence[int]
    options: StepOptions
    name: str = ""
    reuse: bool = True
    prompt_logprobs: PromptLogprobs | None = None


class CompletionJob(Generic[TreeT]):
    """A tree whose root is the prompt, and whose children are the samples."""

    needs_room = True

    def __init__(self, service: Service[TreeT], wanted: Wanted) -> None:
        self.deadline: float | None = None
        self.wanted = wanted
        self._service = service
        self._tree: TreeT | None = None  # while it is open
        self._expansions: dict[int, Expansion[TreeT]] = {}  # by seed
        self._freed: set[Node] = set()
        self._begun = 0.0

    def begin(self) -> bool:
        """Open the tree and ask for the samples; those that are certain to be equal are asked for once."""
        wanted = self.wanted
        greedy = wanted.options.sampling.is_greedy
        seeds = wanted.seeds[:1] if greedy else list(dict.fromkeys(wanted.seeds))
        n = 1 if greedy else wanted.n
        try:
            tree = self._open(n * len(seeds))
        except InputError as error:
            raise InputError(f"{wanted.name}: {error}") if wanted.name else error from None
        if tree is None:
            return False
        self._tree, self._begun = tree, time.perf_counter()
        for seed in seeds:
            options = replace(wanted.options, seed=seed)
            self._expansions[seed] = Expansion(
                self, self._service.pair, self._service.board, tree, tree.root, n, options, 1, False,
                lambda kind, node: None, "a completion",
            )  # fmt: skip
            self._expansions[seed].begin()
        return True

    def _open(self, branches: int) -> TreeT | None:
        prompt, options = self.wanted.prompt, self.wanted.options
        if prompt is None or prompt == "":  # though a BOS of the model would be one
            raise InputError("the prompt is empty: give some text, or the id of the token to begin with")
        settings = Settings(
            options.sampling, options.endings, options.max_tokens, options.max_tokens, speculate=False,
            reuse=self.wanted.reuse, exact=False, prompt_logprobs=self.wanted.prompt_logprobs,
        )  # fmt: skip
        return self._service.pair.open(Problem("", "", prompt), Demand(branches, branches, 1, scores=False), settings)

    def advance(self) -> None:
        """Free the KV of samples that have ended."""
        assert self._tree is not None
        for node in [node for expansion in self._expansions.values() for node in expansion.nodes]:
            if node not in self._freed:
                self._freed.add(node)
                self._service.pair.prune(self._tree, node)

    @property
    def is_over(self) -> bool:
        return all(expansion.is_complete for expansion in self._expansions.values())

    def cut(self) -> None: ...

    def finish(self) -> list[Completion]:
        """A completion for each seed."""
        tree = self._tree
        assert tree is not None
        self.abort()
        drawn = {seed: expansion.result() for seed, expansion in self._expansions.items()}
        told: set[Node] = set()
        found = []
        for seed in self.wanted.seeds:
            nodes = drawn.get(seed) or drawn[self.wanted.seeds[0]]  # greedy: one for all
            samples = [as_sample(nodes[min(i, len(nodes) - 1)], told) for i in range(self.wanted.n)]
            given = tree.root.logprobs
            known = None if given is None else [*[None] * (len(tree.prompt) - len(given)), *given]
            found.append(Completion(list(tree.prompt), samples, seed, known))
        found[0].cost.add(tree.root.cost)
        found[0].cost.seconds = time.perf_counter() - self._begun
        for completion in found:
            for sample in completion.samples:
                completion.cost.add(sample.cost)
        return found

    def abort(self) -> None:
        """Free everything; again, it does nothing."""
        if self._tree is None:
            return
        for expansion in self._expansions.values():
            if not expansion.is_complete:
                expansion.cancel()
        tree, self._tree = self._tree, None
        self._service.pair.close(tree)


class OneCompletion(CompletionJob[TreeT]):
    """The same for a prompt that is asked for by itself."""

    def finish(self) -> Completion:  # type: ignore[override]  # a job may return anything
        return super().finish()[0]


def as_sample(node: Node, told: set[Node]) -> Sample:
    """A node as a sample. told: those that are samples already, this one from now on."""
    assert node.finish is not None
    repeat = node in told
    told.add(node)
    return Sample(
        node.text, list(node.tokens), node.logprob, node.finish if node.stopped_by is None else "stop",
        node.stopped_by, node.cut, node.logprobs, Cost() if repeat else replace(node.cost), repeat,
        None if node.confidence is None else TraceConfidence.of(node.confidence),
    )  # fmt: skip
