"""What judges without models of their own have in common: steps wait in a queue, and nothing is too long."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from branchwise.engine.kv import Lease
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Node


@dataclass(slots=True, eq=False)
class QueuedTree:
    """One problem as such a judge sees it."""

    root: Node
    question: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    rebuilt_tokens: int = 0
    leases: tuple[Lease, ...] = ()


TreeT = TypeVar("TreeT", bound=QueuedTree)


class QueuedScorer(Generic[TreeT]):
    """A `Judge` but for `open`, `check_text` and `poll`. tokenizer: the policy's, for there is none of its own."""

    flops_per_token = 0.0
    batch_rows = 1

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._queue: dict[Node, TreeT] = {}

    @property
    def idle(self) -> bool:
        """True when nothing waits for a score."""
        return not self._queue

    @property
    def pending(self) -> int:
        """Steps that wait."""
        return len(self._queue)

    @property
    def first(self) -> Node:
        """The root of the tree that has waited longest."""
        return next(iter(self._queue.values())).root

    def flops(self, tree: TreeT) -> float:
        """Nobody knows, or none."""
        return 0.0

    def room(self, question: str) -> int:
        """No end."""
        return sys.maxsize

    def submit(self, tree: TreeT, node: Node) -> bool:
        """Queue a finished step, and any step before it that has no score yet; False for one without text."""
        if not node.text.strip():
            return False
        for step in node.path:
            if step.score is None and step.unjudged is None and step.text.strip():
                self._queue[step] = tree
        return True

    def release(self, tree: TreeT, node: Node) -> None:
        """The node needs no score any more."""
        self._queue.pop(node, None)

    def close(self, tree: TreeT) -> None:
        """Forget a tree."""
        self.give_up(tree)

    def give_up(self, tree: TreeT) -> None:
        """Score nothing that is queued of a tree."""
        self._queue = {node: owner for node, owner in self._queue.items() if owner is not tree}

    def shed(self, tree: TreeT, *, hard: bool = False) -> bool:
        """There is no KV."""
        return False

    def _take(self) -> dict[Node, TreeT]:
        """All that waits."""
        queue: dict[Node, Any]
        queue, self._queue = self._queue, {}
        return queue
