"""A tree grown by hand: expand, score and prune, for frameworks that bring their own search."""

from __future__ import annotations

import reprlib
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic

from branchwise.config import SAMPLING
from branchwise.errors import ConfigError, StaleNodeError
from branchwise.pair.protocol import Pair, TreeT
from branchwise.search.request import Expansion, Scoring
from branchwise.search.service import Service
from branchwise.search.ticket import Ticket, Value
from branchwise.strategies.options import check_count
from branchwise.strategies.protocol import Demand
from branchwise.tree import root_of, walk
from branchwise.types import Node, Problem, Settings, StepOptions


@dataclass(slots=True, eq=False)
class HandTree(Generic[TreeT]):
    """The service's side of a tree: what is open, and what is in flight in it."""

    pair: Pair[TreeT]
    tree: TreeT
    settings: Settings
    closed: bool = False
    jobs: list[HandJob[TreeT]] = field(default_factory=list)  # in flight


@dataclass(slots=True, eq=False)
class Opening(Generic[TreeT]):
    """The job that opens a tree."""

    service: Service[TreeT]
    problem: Problem
    demand: Demand
    settings: Settings
    deadline: float | None = None
    hand: HandTree[TreeT] | None = None

    needs_room = is_over = True

    def begin(self) -> bool:
        pair = self.service.pair
        tree = pair.open(self.problem, self.demand, self.settings)
        if tree is not None:
            self.hand = HandTree(pair, tree, self.settings)
        return tree is not None

    def advance(self) -> None: ...
    def cut(self) -> None: ...

    def finish(self) -> StepTree:
        assert self.hand is not None
        return StepTree(self.service, self.hand)

    def abort(self) -> None:  # also when nobody took what was opened
        if self.hand is not None and not self.hand.closed:
            self.hand.closed = True
            self.hand.pair.close(self.hand.tree)


@dataclass(slots=True, eq=False)
class HandJob(Generic[TreeT]):
    """The job of one expansion or of some scores in a tree that is open."""

    hand: HandTree[TreeT]
    request: Expansion[TreeT] | Scoring[TreeT] | None = None
    deadline: float | None = None

    needs_room = False

    def begin(self) -> bool:
        if self.hand.closed:
            raise StaleNodeError("this tree has been closed: open another one")
        assert self.request is not None
        self.hand.jobs.append(self)
        self.request.begin()
        return True

    def advance(self) -> None: ...
    def cut(self) -> None: ...

    @property
    def is_over(self) -> bool:
        return self.request is None or self.request.is_complete

    def finish(self) -> list[Node]:
        assert self.request is not None
        nodes = self.request.result()
        self._end()
        return nodes

    def abort(self) -> None:
        if self.request is not None and self in self.hand.jobs and not self.hand.closed:
            self.request.cancel()
        self._end()

    def _end(self) -> None:
        self.request = None
        if self in self.hand.jobs:
            self.hand.jobs.remove(self)


class StepTree:
    """The steps of one prompt. Use it as a context manager: leaving frees its KV; so does dropping it.

    `root` holds the prompt. Nodes carry tokens, text, logprob, score, finish, parent and cost. Every call that takes
    time has a form that awaits: `aexpand`, `ascore`.
    """

    def __init__(self, service: Service[Any], hand: HandTree[Any]) -> None:
        self._service = service
        self._hand = hand
        self._finalizer = weakref.finalize(self, _close, service, hand, wait=False)
        self._finalizer.atexit = False  # memory goes with the process

    @property
    def root(self) -> Node:
        """The prompt."""
        root: Node = self._hand.tree.root
        return root

    def expand(self, node: Node, n: int = 1, **options: Any) -> list[Node]:
        """`n` more children of a node, each one step long, decoded together.

        stop: text that ends the step, or several, taken literally; []: none does, not even a blank line
        max_tokens: of one step
        feed: text that every child begins with: given, not drawn, and not counted by `max_tokens`
        temperature, top_p, ...: see `Sampling`, of this call
        score: judge every child while its siblings grow; its `score` is set when this returns

        StaleNodeError: the node was pruned or has ended. OutOfMemory: no KV left; the tree stays as it was.
        """
        (children,) = wait_for([self.submit(node, n, **options)])
        return children

    async def aexpand(self, node: Node, n: int = 1, **options: Any) -> list[Node]:
        """As `expand`, without blocking the event loop. Cancelled, it leaves the tree as it was."""
        return await self.submit(node, n, **options)

    def submit(self, node: Node, n: int = 1, *, score: bool = False, **options: Any) -> Ticket[list[Node]]:
        """Queue an expansion and return its ticket: many trees, or many nodes, may grow in one batch."""
        return self._service.submit(self.expansion(node, n, score=score, **options))

    def expansion(self, node: Node, n: int, *, score: bool = False, **options: Any) -> HandJob[Any]:
        """The job of an expansion, checked but not queued."""
        service, job = self._service, HandJob(self._hand)
        pair = service.pair
        self._check_own([node])
        check_count("expand", "n", n)
        if not isinstance(score, bool):
            raise ConfigError(f"score={score!r}: expected True or False")
        if score and not pair.scores:
            raise ConfigError("score=True needs a judge: give the engine a PRM with prm=...")
        job.request = Expansion(
            job, pair, service.board, self._hand.tree, node, n,
            step_options(self._hand.settings, **options), 1, score, lambda kind, node: None, "a tree grown by hand",
        )  # fmt: skip
        return job

    def score(self, nodes: Sequence[Node]) -> list[float | None]:
        """P(good) of every step, `None` for one without text. ConfigError without a PRM."""
        wait_for([self._submit_scores(nodes)])
        return [node.score for node in nodes]

    async def ascore(self, nodes: Sequence[Node]) -> list[float | None]:
        """As `score`, without blocking the event loop."""
        await self._submit_scores(nodes)
        return [node.score for node in nodes]

    def _submit_scores(self, nodes: Sequence[Node]) -> Ticket[list[Node]]:
        if not self._service.pair.scores:
            raise ConfigError("step scores are needed, but the engine has no judge: give it a PRM with prm=...")
        nodes = self._check_own(nodes)
        for node in nodes:
            if node.finish is None:
                what = "holds the prompt and" if node is self.root else "still grows: it"
                raise ConfigError(f"node {node.lineage_path} {what} has no score: give steps that are finished")
            if node.pruned and node.score is None:
                raise StaleNodeError(f"node {node.lineage_path} was pruned: score steps before they are")
        job: HandJob[Any] = HandJob(self._hand)
        board, name = self._service.board, "a tree grown by hand"
        job.request = Scoring(job, self._service.pair, board, self._hand.tree, nodes, name)
        return self._service.submit(job)

    def _check_own(self, nodes: Iterable[Node]) -> list[Node]:
        """The nodes. ConfigError: there is something else among them, or a node of another tree."""
        if isinstance(nodes, Node) or not isinstance(nodes, Iterable):
            raise ConfigError(f"nodes={reprlib.repr(nodes)}: expected a list of nodes")
        given = list(nodes)
        for node in given:
            if not isinstance(node, Node):
                raise ConfigError(f"{reprlib.repr(node)} is no node: give one of this tree, such as its root")
            if root_of(node) is not self.root:
                raise ConfigError(f"node {node.lineage_path} belongs to another tree: give one of this tree")
        return given

    def prune(self, node: Node) -> None:
        """Free a node and everything under it; what grows there is given up."""
        self._check_own([node])
        self._service.at_once(lambda: _prune(self._service, self._hand, node), wait=True)

    def close(self) -> None:
        """Free the tree; again, it does nothing."""
        self._finalizer.detach()
        _close(self._service, self._hand, wait=True)

    def __enter__(self) -> StepTree:
        return self

    def __exit__(self, *_: object) -> None:
        if self._service.home.is_here:
            self.close()


def wait_for(tickets: Sequence[Ticket[Value]]) -> list[Value]:
    """The results of all tickets, which run in the same batches; an error or an interrupt gives up the others."""
    try:
        return [ticket.result() for ticket in tickets]
    except BaseException:
        for ticket in tickets:
            ticket.cancel()
        raise


def step_options(
    settings: Settings,
    *,
    stop: str | Sequence[str] | None = None,
    max_tokens: int | None = None,
    feed: str | None = None,
    **sampling: float | None,
) -> StepOptions:
    """The options of a step: those of the tree with some replaced. ConfigError for one that cannot work."""
    for name in sampling:
        if name not in SAMPLING:
            raise ConfigError(
                f"expand has no option {name!r}: it has n, stop, max_tokens, feed, score, {', '.join(SAMPLING)}"
            )
    given: dict[str, Any] = {name: value for name, value in sampling.items() if value is not None}
    return settings.step(replace(settings.sampling, **given), stop, max_tokens, feed)


async def await_all(tickets: Sequence[Ticket[Value]]) -> list[Value]:
    """As `wait_for`, without blocking the event loop."""
    try:
        return [await ticket for ticket in tickets]
    except BaseException:
        for ticket in tickets:
            ticket.cancel()
        raise


def expand_all(entries: Iterable[Sequence[Any]], options: dict[str, Any]) -> list[Ticket[list[Node]]]:
    """Tickets of `(tree, node, n)` or `(tree, node, n, options)` entries, queued together."""
    if not isinstance(entries, Iterable):
        raise ConfigError(f"expand_many was given {reprlib.repr(entries)}: expected a list of (tree, node, n)")
    jobs = []
    for entry in entries:
        tree, node, n, own = (*entry, {})[:4] if isinstance(entry, Sequence) and len(entry) in (3, 4) else (None,) * 4
        if not isinstance(tree, StepTree) or not isinstance(own, dict):
            raise ConfigError(
                f"expand_many was given {reprlib.repr(entry)}: expected (tree, node, n) or (tree, node, n, options)"
            )
        jobs.append((tree._service, tree.expansion(node, n, **{**options, **own})))
    return [service.submit(job) for service, job in jobs]


def _prune(service: Service[Any], hand: HandTree[Any], top: Node) -> None:
    """Give up what is in flight below a node, then free it with all of it."""
    if hand.closed:
        return
    gone = set(walk(top))
    for job in list(hand.jobs):
        request = job.request
        asked = request.nodes if isinstance(request, Scoring) else [request.node] if request is not None else []
        if gone.intersection(asked):
            service.end(job, StaleNodeError("the node was pruned while this was in flight"))
    for node in walk(top):
        if not node.pruned:
            node.pruned = True
            hand.pair.prune(hand.tree, node)


def _close(service: Service[Any], hand: HandTree[Any], *, wait: bool) -> None:
    def close() -> None:
        if not hand.closed:
            for job in list(hand.jobs):
                service.end(job, StaleNodeError("the tree was closed while this was in flight"))
            hand.closed = True
            hand.pair.close(hand.tree)

    if not hand.closed:
        service.at_once(close, wait=wait)
