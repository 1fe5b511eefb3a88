"""All the driver knows of an engine: trees that it opens, expands, scores, prunes and closes, and events it polls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from branchwise.types import Node, Problem, Result, Sampling


class TreeHandle(Protocol):
    """An open tree: the prompt and all steps of one problem."""

    @property
    def root(self) -> Node: ...


TreeT = TypeVar("TreeT", bound=TreeHandle)


@dataclass(frozen=True, slots=True)
class Event:
    """A node that an engine iteration finished: its step is complete, or its score is set."""

    kind: Literal["generated", "scored"]
    tree: TreeHandle
    node: Node


class StepEngine(Protocol[TreeT]):
    """Runs steps of many trees in one batch.

    `expand` and `score` only queue; `poll` runs one iteration and returns what it finished, in any order. The n
    children of an `expand` take the next n child indices of `node`, in order of the calls, and are in `node.children`
    by the time they are reported. `score` leaves `node.score` None only for a step whose text is blank. `prune` says
    that a node will not be expanded again (its descendants may be in use); every node, the root too, is pruned at most
    once. `close` frees the tree with whatever is queued for it: no event of it follows. It also completes
    `root.cost`, which holds what belongs to no single step: prefill, peak KV, iterations.
    """

    def open(
        self, problem: Problem, branches: int, max_steps: int, sampling: Sampling, seed: int, *, use_scores: bool,
        kept: int | None = None,
    ) -> TreeT | None:  # fmt: skip
        """Admit a problem, or return None while its worst case does not fit.

        branches: alive at most    max_steps: steps in a branch at most    use_scores: False if `score` is never called
        kept: branches that go on when a level is over at most, where the others are pruned; None: all
        Raises OutOfMemory if it could never fit.
        """

    def expand(self, tree: TreeT, node: Node, n: int) -> None: ...
    def score(self, tree: TreeT, nodes: list[Node]) -> None: ...
    def prune(self, tree: TreeT, node: Node) -> None: ...
    def close(self, tree: TreeT) -> None: ...
    def poll(self) -> list[Event]: ...


ProgressKind = Literal["started", "generated", "scored", "pruned", "finished"]


@dataclass(frozen=True, slots=True)
class Progress:
    """What `on_event` gets: a problem started or finished, or a node was generated, scored or discarded."""

    kind: ProgressKind
    problem: Problem
    node: Node  # the root for "started" and "finished"
    result: Result | None = None  # for "finished"


Callback = Callable[[Progress], None]
