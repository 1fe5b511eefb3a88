"""Who gets a row in the next iteration: growing steps, then new ones, then steps written ahead where rows are free."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from branchwise.engine.branch import Branch, Tree


@dataclass(slots=True)
class Opening:
    """A wish for `n` children of a node whose last hidden state may still have to be computed."""

    tree: Tree
    branch: Branch
    n: int
    ahead: bool = False  # nobody has asked for the child yet


@dataclass(slots=True)
class Growing:
    """A step being written. `branch.pending` holds the token drawn last."""

    tree: Tree
    branch: Branch


class RowQueue:
    """What waits for rows, first come, first served."""

    def __init__(self, max_rows: int, prefill_rows: int) -> None:
        self.max_rows = max_rows
        self.prefill_rows = prefill_rows
        self.openings: deque[Opening] = deque()
        self.growing: deque[Growing] = deque()
        self.ahead = Ahead()

    @property
    def idle(self) -> bool:
        """True when nobody waits for anything; steps written ahead do not count."""
        return not (self.openings or self.growing)

    @property
    def opening(self) -> bool:
        """Whether the next iteration begins new steps."""
        rows = len(self.growing) + len(self.ahead.growing)
        return bool(self.openings or (self.ahead.openings and rows < self.max_rows))

    def next_growing(self) -> list[Growing]:
        """The growing steps that get a row, those written ahead last."""
        growing = _take(self.growing, self.max_rows)
        return growing + _take(self.ahead.growing, self.max_rows - len(growing))

    def next_batch(self) -> tuple[list[Growing], list[Opening]]:
        """The rows of an iteration: growing steps, and openings while rows and prompt tokens are free."""
        growing = _take(self.growing, self.max_rows)
        rows, prefill = len(growing), 0
        openings: list[Opening] = []
        while self.openings and rows < self.max_rows and prefill < self.prefill_rows:
            opening = self.openings.popleft()
            if all(opening.branch is not other.branch for other in openings):  # else fed once for both
                prefill += len(opening.branch.pending)
            openings.append(opening)
            rows += opening.n
        ahead = _take(self.ahead.growing, self.max_rows - rows)
        openings += _take(self.ahead.openings, self.max_rows - rows - len(ahead))
        return growing + ahead, openings

    def put_back(self, growing: Sequence[Growing], openings: Sequence[Opening] = ()) -> None:
        """Return rows to the heads of their queues."""
        for item in reversed(growing):
            (self.ahead.growing if item.branch.ahead else self.growing).appendleft(item)
        for opening in reversed(openings):
            (self.ahead.openings if opening.ahead else self.openings).appendleft(opening)

    def adopt(self, parent: Branch) -> Growing | None:
        """The first child of a step, if it was written ahead; it is an ordinary step from now on."""
        _remove(self.ahead.openings, [parent])
        child = self.ahead.children.pop(parent, None)
        if child is not None:
            child.branch.ahead = False
            if _remove(self.ahead.growing, [child.branch]):  # else it is finished, or in an iteration under way
                self.growing.append(child)
        return child

    def forget(self, branches: list[Branch]) -> None:
        """Take branches out of all queues."""
        for openings in (self.openings, self.ahead.openings):
            _remove(openings, branches)
        for growing in (self.growing, self.ahead.growing):
            _remove(growing, branches)

    def cancel(self, tree: Tree) -> None:
        """Take the openings of a tree out of the queue."""
        _remove(self.openings, [opening.branch for opening in self.openings if opening.tree is tree])


class Ahead:
    """Steps that nobody has asked for yet: the first child of a step that stopped, and its first child in turn.

    Random numbers are keyed by lineage and position, so such a step reads as it will when it is asked for.
    """

    def __init__(self) -> None:
        self.openings: deque[Opening] = deque()
        self.growing: deque[Growing] = deque()
        self.children: dict[Branch, Growing] = {}  # by parent; finished ones, too

    def take_below(self, branch: Branch) -> list[Branch]:
        """The chain of steps written ahead of a branch, parents first; they are known no longer."""
        chain = []
        while (child := self.children.pop(branch, None)) is not None:
            branch = child.branch
            chain.append(branch)
        return chain


Item = TypeVar("Item", Opening, Growing)


def _take(queue: deque[Item], count: int) -> list[Item]:
    return [queue.popleft() for _ in range(min(count, len(queue)))]


def _remove(queue: deque[Item], branches: list[Branch]) -> bool:
    """Whether there was anything to remove."""
    kept = [item for item in queue if item.branch not in branches]
    if len(kept) == len(queue):
        return False
    queue.clear()
    queue.extend(kept)
    return True
