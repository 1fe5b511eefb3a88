"""What the service asks of its jobs, and what it tells whoever watches a search."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from branchwise.types import Node, Problem, Result

ProgressKind = Literal["started", "generated", "scored", "pruned", "finished"]


@dataclass(frozen=True, slots=True)
class Progress:
    """What `on_event` gets: a problem started or finished, or a node was generated, scored or given up."""

    kind: ProgressKind
    problem: Problem
    node: Node  # the root for "started" and "finished"
    result: Result | None = None  # for "finished"


Callback = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Later:
    """A result that needs something which is done beside the service. then: called in its thread with `needs`, done."""

    needs: Future[Any]
    then: Callable[[Future[Any]], Any]


class Job(Protocol):
    """One ticket's work. The service calls it from one thread; what it raises ends this job alone."""

    deadline: float | None  # time.monotonic() at which `cut` is called

    @property
    def needs_room(self) -> bool:
        """Whether it opens a tree; what works in an open one waits for nobody."""
        ...

    def begin(self) -> bool:
        """Take what it needs and ask for its first steps; False while there is no room."""
        ...

    def advance(self) -> None:
        """Go on after steps or scores of it have come in."""
        ...

    @property
    def is_over(self) -> bool: ...

    def cut(self) -> None:
        """Time is up: be over with what there is."""
        ...

    def finish(self) -> Any:
        """Free everything and return the result, or a `Later`."""
        ...

    def abort(self) -> None:
        """Free everything, whatever is in flight; again, it does nothing."""
        ...
