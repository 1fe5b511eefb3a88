"""Who gets a row in the next iteration: growing steps, then new ones, then steps written ahead where rows are free."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from branchwise.engine.kv_step import next_to_feed
from branchwise.engine.policy_tree import NodeState, PolicyTree
from branchwise.types import Node, StepOptions


@dataclass(slots=True)
class Opening:
    """A wish for children `first` to `first + n` of a node whose last hidden state may still have to be computed.

    n is 0 where that state alone is wanted.
    """

    tree: PolicyTree
    parent: NodeState
    first: int
    n: int
    options: StepOptions
    speculative: bool = False  # nobody has asked for the child yet
    asked: int = 0  # index of the first child of the wish, some of which may have been written ahead
    feed: Sequence[int] = ()  # tokens that each child begins with


@dataclass(slots=True)
class Growing:
    """A step being written. Its last token alone is missing in the KV, unless its KV is being rebuilt."""

    tree: PolicyTree
    state: NodeState


@dataclass(frozen=True, slots=True)
class RowLoad:
    """The rows of the next iteration: steps that grow, and trees with so many new ones to begin."""

    max_rows: int
    growing: Sequence[tuple[PolicyTree, Node]]
    openings: Sequence[tuple[PolicyTree, int]]

    @property
    def used(self) -> int:
        """Rows, also beyond `max_rows`: what waits for one."""
        return len(self.growing) + sum(n for _, n in self.openings)


def account(active: Sequence[Growing], bytes_read: int) -> None:
    """Share the cost of an iteration among the rows that took part."""
    share = bytes_read // len(active)
    by_tree: dict[PolicyTree, int] = {}
    for item in active:
        by_tree[item.tree] = by_tree.get(item.tree, 0) + 1
        item.state.node.cost.kv_bytes_read += share
        item.tree.cost.speculated_tokens += item.state.speculative
        item.tree.cost.generated_tokens += not item.state.speculative
    for tree, rows in by_tree.items():
        tree.count_iteration(rows, share * rows)


class RowQueue:
    """What waits for rows, first come, first served."""

    def __init__(self, max_rows: int, prefill_rows: int) -> None:
        self.max_rows = max_rows
        self.prefill_rows = prefill_rows
        self.openings: deque[Opening] = deque()
        self.growing: deque[Growing] = deque()
        self.returning: deque[Growing] = deque()  # steps whose KV is being rebuilt before they grow on
        self.parked = Parked()
        self.ahead = Ahead()

    @property
    def idle(self) -> bool:
        """True when nobody waits for anything; steps written ahead, and those of paused trees, do not count."""
        return not (self.openings or self.growing or self.returning)

    @property
    def needs_host(self) -> bool:
        """Whether the next iteration begins or rebuilds steps, or somebody wants to know more of tokens than which."""
        rows = len(self.growing) + len(self.ahead.growing)
        return (
            bool(self.openings or self.returning or (self.ahead.openings and rows < self.max_rows))
            or any(item.state.options.logprobs is not None for item in self.growing)
        )  # fmt: skip

    def next_growing(self) -> list[Growing]:
        """The growing steps that get a row, those written ahead last."""
        growing = _take(self.growing, self.max_rows)
        return growing + _take(self.ahead.growing, self.max_rows - len(growing))

    def next_batch(
        self, ready: Callable[[Opening, Sequence[Opening]], bool]
    ) -> tuple[list[Growing], list[Opening], list[Growing]]:
        """The rows of an iteration: growing steps, and openings while rows and prompt tokens are free.

        And steps that still return: nobody takes them out of their queue.
        ready: whether an opening has to wait for nothing that is fed for those before it
        """
        self._bring_back()
        growing = _take(self.growing, self.max_rows)
        rows, prefill = len(growing), 0
        openings: list[Opening] = []
        waiting: list[Opening] = []
        while self.openings and rows < self.max_rows and prefill < self.prefill_rows:
            opening = self.openings.popleft()
            if not ready(opening, openings):
                waiting.append(opening)
                continue
            if all(opening.parent is not other.parent for other in openings):  # else fed once for both
                prefill += opening.parent.missing
            openings.append(opening)
            rows += opening.n
        self.openings.extendleft(reversed(waiting))
        ahead = _take(self.ahead.growing, self.max_rows - rows)
        openings += _take(self.ahead.openings, self.max_rows - rows - len(ahead))
        return growing + ahead, openings, list(self.returning)

    def _bring_back(self) -> None:
        """Returning steps whose KV is whole, up to the token drawn last, grow on."""
        returning, self.returning = self.returning, deque()
        for item in returning:
            whole = item.state.missing == 1 and next_to_feed(item.state) is item.state
            (self.growing if whole else self.returning).append(item)

    def put_back(self, growing: Sequence[Growing], openings: Sequence[Opening] = ()) -> None:
        """Return rows to the heads of their queues."""
        for item in reversed(growing):
            (self.ahead.growing if item.state.speculative else self.growing).appendleft(item)
        for opening in reversed(openings):
            (self.ahead.openings if opening.speculative else self.openings).appendleft(opening)

    def wish(self, opening: Opening) -> None:
        """Queue a wish."""
        (self.parked.openings if opening.tree.paused else self.openings).append(opening)

    def park(self, tree: PolicyTree) -> None:
        """The rows of a tree wait, in their order, until `unpark`. Its steps written ahead must be gone."""
        self.parked.openings += _take_of(tree, self.openings)
        self.parked.growing += _take_of(tree, self.returning) + _take_of(tree, self.growing)

    def unpark(self, tree: PolicyTree) -> None:
        """They come back, growing steps as soon as their KV does."""
        self.openings += _take_of(tree, self.parked.openings)
        self.returning += _take_of(tree, self.parked.growing)

    def wanted(self, tree: PolicyTree) -> list[NodeState]:
        """The steps of a tree whose KV its rows need, with that of all steps before them."""
        growing = (*self.growing, *self.returning, *self.ahead.growing)
        wanted = [item.state for item in growing if item.tree is tree]
        return wanted + [each.parent for each in (*self.openings, *self.ahead.openings) if each.tree is tree]

    def adopt(self, child: Growing) -> None:
        """A step written ahead is an ordinary one from now on."""
        assert child.state.parent is not None
        del self.ahead.children[child.state.parent]
        child.state.speculative = False
        if _remove(self.ahead.growing, [child.state]):  # else it is finished, or in an iteration under way
            self.growing.append(child)

    def forget(self, states: list[NodeState]) -> None:
        """Take nodes out of all queues."""
        for openings in (self.openings, self.parked.openings, self.ahead.openings):
            _remove(openings, states)
        for growing in (self.growing, self.returning, self.parked.growing, self.ahead.growing):
            _remove(growing, states)

    def cancel(self, parent: NodeState, first: int, n: int) -> None:
        """Take back the wish for children `first` to `first + n` of a node, as far as they have not begun."""
        wanted = range(first, first + n)
        for openings in (self.openings, self.parked.openings):
            kept = [item for item in openings if item.parent is not parent or item.first not in wanted]
            openings.clear()
            openings.extend(kept)


class Parked:
    """Rows of paused trees."""

    def __init__(self) -> None:
        self.openings: deque[Opening] = deque()
        self.growing: deque[Growing] = deque()


class Ahead:
    """Steps that nobody has asked for yet: the first child of a step that stopped, and its first child in turn.

    Random numbers are keyed by lineage and position, so such a step reads as it will when it is asked for.
    """

    def __init__(self) -> None:
        self.openings: deque[Opening] = deque()
        self.growing: deque[Growing] = deque()
        self.children: dict[NodeState, Growing] = {}  # by parent; finished ones, too

    def drop_opening(self, parent: NodeState) -> None:
        """The step that would be written ahead of a node is not begun any more."""
        _remove(self.openings, [parent])

    def drop_openings(self, only: PolicyTree | None) -> bool:
        """No step is begun ahead, in one tree or in all; False: none would have been."""
        kept = [] if only is None else [opening for opening in self.openings if opening.tree is not only]
        found = len(kept) < len(self.openings)
        self.openings = deque(kept)
        return found

    def take_below(self, state: NodeState) -> list[NodeState]:
        """The chain of steps written ahead of a node, parents first; they are known no longer."""
        chain = []
        while (child := self.children.pop(state, None)) is not None:
            state = child.state
            chain.append(state)
        return chain


Item = TypeVar("Item", Opening, Growing)


def _take(queue: deque[Item], count: int) -> list[Item]:
    return [queue.popleft() for _ in range(min(count, len(queue)))]


def _take_of(tree: PolicyTree, queue: deque[Item]) -> list[Item]:
    """Take what belongs to a tree out of a queue."""
    taken = [item for item in queue if item.tree is tree]
    kept = [item for item in queue if item.tree is not tree]
    queue.clear()
    queue.extend(kept)
    return taken


def _remove(queue: deque[Item], states: list[NodeState]) -> bool:
    """Whether there was anything to remove."""
    kept = [item for item in queue if _state(item) not in states]
    if len(kept) == len(queue):
        return False
    queue.clear()
    queue.extend(kept)
    return True


def _state(item: Opening | Growing) -> NodeState:
    return item.parent if isinstance(item, Opening) else item.state
