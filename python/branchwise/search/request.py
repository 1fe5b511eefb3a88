"""Work in flight: an expansion from the wish to its last score, and scores that were asked for by themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeAlias

from branchwise.errors import CheckpointError
from branchwise.pair.protocol import Event, Pair, TreeT
from branchwise.search.protocol import Job, ProgressKind
from branchwise.types import Node, StepOptions

Tell = Callable[[ProgressKind, Node], None]


@dataclass(slots=True)
class Board:
    """Who waits for what: the requests in flight, by the steps they wait for."""

    growing: dict[tuple[Node, int], Expansion[Any]] = field(default_factory=dict)  # by parent and child index
    scoring: dict[Node, list[Scoring[Any]]] = field(default_factory=dict)
    watching: dict[Job, Callable[[], None]] = field(default_factory=dict)  # jobs that look at their steps as they grow

    def waiting(self, event: Event) -> list[Request]:
        """Those who wait for an event; scores that were asked for by themselves are reported once."""
        node = event.node
        if event.kind == "failed":
            return [request for request in self.requests() if request.tree is event.tree]
        assert node.parent is not None
        waiting: list[Request] = list(self.scoring.pop(node, [])) if event.kind == "scored" else []
        expansion = self.growing.get((node.parent, node.index))
        if expansion is not None and (event.kind == "generated" or expansion.awaits_score(node)):
            waiting.append(expansion)
        return waiting

    def requests(self) -> list[Request]:
        """All that is in flight."""
        every: list[Request] = list(self.growing.values())
        every += [each for waiting in self.scoring.values() for each in waiting]
        return list(dict.fromkeys(every))


@dataclass(slots=True, eq=False)
class Expansion(Generic[TreeT]):
    """n chains of `steps` steps below a node, or as long as they go; scored as asked."""

    job: Job
    pair: Pair[TreeT]
    board: Board
    tree: TreeT
    node: Node
    n: int
    options: StepOptions
    steps: int
    score: bool | Literal["last"]
    tell: Tell
    name: str  # of what it works for, in messages
    planted: bool = False  # the node is a prompt that was planted for it
    nodes: list[Node] = field(default_factory=list)  # the last step of every chain that is complete
    first: int = -1  # child index of the first chain
    _scored: set[Node] = field(default_factory=set)  # steps that wait for their score

    def begin(self) -> None:
        """Ask for the first steps."""
        self.first = self.pair.expand(self.tree, self.node, self.n, self.options)
        self._await(self.node, self.first, self.n)

    @property
    def is_complete(self) -> bool:
        return len(self.nodes) == self.n

    def awaits_score(self, node: Node) -> bool:
        return node in self._scored

    def take(self, event: Event) -> None:
        """A step of it is complete, or has its score."""
        node = event.node
        if event.error is not None:
            raise event.error
        assert event.kind != "failed"
        self.tell(event.kind, node)
        if event.kind == "scored":
            self._scored.discard(node)
            check_score(node, self.name)
        last = node.finish != "stop" or node.depth - self.node.depth == self.steps
        if event.kind == "generated" and (self.score is True or (self.score and last)):
            self._scored.add(node)
            self.pair.score(self.tree, [node])
            return
        assert node.parent is not None
        del self.board.growing[node.parent, node.index]
        if last:
            self.nodes.append(node)
        else:
            self._await(node, self.pair.expand(self.tree, node, 1, replace(self.options, feed="")), 1)

    def result(self) -> list[Node]:
        """The last step of every chain, in order of child index."""
        return sorted(self.nodes, key=lambda node: node.lineage_path)

    def cancel(self) -> None:
        """Give up: none of its steps stays in the tree."""
        for key in [key for key, request in self.board.growing.items() if request is self]:
            del self.board.growing[key]
        if self.planted and self.node.parent is not None:
            self.pair.cancel(self.tree, self.node.parent, self.node.index, 1)
        elif self.first >= 0:
            self.pair.cancel(self.tree, self.node, self.first, self.n)

    def _await(self, node: Node, first: int, n: int) -> None:
        self.board.growing.update({(node, index): self for index in range(first, first + n)})


@dataclass(slots=True, eq=False)
class Scoring(Generic[TreeT]):
    """Scores of steps that are there already."""

    job: Job
    pair: Pair[TreeT]
    board: Board
    tree: TreeT
    nodes: Sequence[Node]
    name: str  # of what it works for, in messages
    _left: int = 0

    def begin(self) -> None:
        """Ask for the scores that are missing."""
        wanted = [node for node in dict.fromkeys(self.nodes) if node.score is None]
        self._left = len(wanted)
        for node in wanted:
            self.board.scoring.setdefault(node, []).append(self)
        self.pair.score(self.tree, wanted)

    @property
    def is_complete(self) -> bool:
        return self._left == 0

    def result(self) -> list[Node]:
        """The steps, which have their scores now."""
        return list(self.nodes)

    def take(self, event: Event) -> None:
        """A score has come."""
        if event.error is not None:
            raise event.error
        self._left -= 1
        check_score(event.node, self.name)

    def cancel(self) -> None:
        """Wait no more; what is queued is scored all the same."""
        for node in self.nodes:
            waiting = self.board.scoring.get(node, [])
            if self in waiting:
                waiting.remove(self)
            if not waiting:
                self.board.scoring.pop(node, None)


def check_score(node: Node, name: str) -> None:
    """Raise CheckpointError for NaN, and for no score of a step that has text."""
    told = node.cut == "prm_context" or node.unjudged is not None
    missing = node.score is None and not told and bool(node.text.strip())
    if missing or (node.score is not None and math.isnan(node.score)):
        raise CheckpointError(
            f"{name}, step {node.lineage_path}: the reward model gave the score {node.score}; its checkpoint is damaged"
            " or its dtype overflows, try another dtype"
        )


Request: TypeAlias = Expansion[Any] | Scoring[Any]
