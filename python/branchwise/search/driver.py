"""The one driver: runs many searches at once and merges what they ask for into the engine's batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Generic

from branchwise.errors import ConfigError, OutOfMemory
from branchwise.search.session import Session
from branchwise.search.step_engine import Callback, StepEngine, TreeT
from branchwise.types import Grader, Node, Problem, Result, Sampling, Strategy


def run(
    problems: Iterable[Problem],
    strategy: Strategy,
    engine: StepEngine[TreeT],
    *,
    max_in_flight: int,
    sampling: Sampling | None = None,
    seed: int = 0,
    on_event: Callback | None = None,
    grade: Grader | None = None,
) -> Iterator[Result]:
    """Search for the answer of every problem and yield results as they finish.

    At most `max_in_flight` problems are open; the next one is taken when there is room for it. A strategy with an
    attribute `temperature` other than None overrides that of `sampling`; a problem with a seed overrides `seed`.
    `grade` fills `Result.correct` where the gold answer is known. Each result, wall time and row statistics apart,
    depends on its problem alone: not on `max_in_flight`, on the other problems or on the order in which steps finish.

    However it ends, by the last result, an error, an interrupt, or because the caller stops asking: no tree stays open.
    One run at a time on an engine. Raises ConfigError for a bad `max_in_flight` and for a second run beside this one,
    OutOfMemory when a problem cannot be admitted though nothing else runs, and what the engine or `on_event` raises.
    """
    if max_in_flight < 1:
        raise ConfigError(f"max_in_flight is {max_in_flight}: at least one problem must be open")
    kept = getattr(strategy, "kept", None)
    if kept is not None and not 1 <= kept <= strategy.n:
        raise ConfigError(f"strategy {strategy.name!r} has kept={kept}: expected 1 to its n={strategy.n} branches")
    sampling = sampling or Sampling()
    temperature: float | None = getattr(strategy, "temperature", None)
    if temperature is not None:
        sampling = replace(sampling, temperature=temperature)
    return _Driver(strategy, engine, sampling, seed, on_event).run(iter(problems), max_in_flight, grade)


class _Driver(Generic[TreeT]):
    def __init__(
        self, strategy: Strategy, engine: StepEngine[TreeT], sampling: Sampling, seed: int, on_event: Callback | None
    ) -> None:
        self._strategy = strategy
        self._engine = engine
        self._sampling = sampling
        self._seed = seed
        self._on_event = on_event
        self._sessions: dict[Node, Session[TreeT]] = {}  # by root
        self._refused: Problem | None = None  # waits for room

    def run(self, source: Iterator[Problem], max_in_flight: int, grade: Grader | None) -> Iterator[Result]:
        try:
            self._admit(source, max_in_flight)
            while self._sessions:
                over = self._step()
                for root in over:
                    # Leaves the open sessions only when it is closed, so that an error in between closes it, too.
                    result = self._sessions[root].finish(grade)
                    del self._sessions[root]
                    yield result
                if over:
                    self._admit(source, max_in_flight)
        finally:
            self._close_all()

    def _admit(self, source: Iterator[Problem], max_in_flight: int) -> None:
        while len(self._sessions) < max_in_flight:
            problem = self._refused or next(source, None)
            if problem is None:
                return
            seed = self._seed if problem.seed is None else problem.seed
            tree = self._engine.open(
                problem,
                self._strategy.n,
                self._strategy.max_steps,
                self._sampling,
                seed,
                use_scores=self._strategy.uses_scores,
                kept=getattr(self._strategy, "kept", None),
            )
            self._refused = problem if tree is None else None
            if tree is None:
                if self._sessions:
                    return
                raise OutOfMemory(
                    f"problem {problem.id!r} with n={self._strategy.n} finds no room though no other problem is open:"
                    " lower n, shorten the prompt, or close trees that are held elsewhere"
                )
            session = Session(problem, self._strategy, self._engine, tree, self._on_event)
            self._sessions[tree.root] = session
            session.begin()

    def _step(self) -> list[Node]:
        """Run one engine iteration, let the searches it served decide, and return the roots of those that are over."""
        served = {root: session for root, session in self._sessions.items() if session.is_over}
        for event in [] if served else self._engine.poll():
            session = self._session(event.tree.root)
            served[event.tree.root] = session
            if event.kind == "generated":
                session.generated(event.node)
            else:
                session.scored(event.node)
        for session in served.values():
            session.advance()
        return [root for root, session in served.items() if session.is_over]

    def _session(self, root: Node) -> Session[TreeT]:
        if root not in self._sessions:
            raise ConfigError(
                "the engine finished a step of a tree that this run did not open: exhaust or close one run before the"
                " next one starts on the same engine"
            )
        return self._sessions[root]

    def _close_all(self) -> None:
        with ExitStack() as stack:  # one that fails to close does not keep the others open
            for session in self._sessions.values():
                stack.callback(session.close)
            self._sessions = {}
