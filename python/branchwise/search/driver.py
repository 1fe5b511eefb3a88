"""Many problems through the service: so many at once, results as they come."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from numbers import Real
from typing import Any

from branchwise.config import is_number
from branchwise.errors import BranchwiseError, ConfigError
from branchwise.search.problems import Intake, check_problem
from branchwise.search.service import Service
from branchwise.search.session import SearchOptions, Session
from branchwise.search.ticket import Ticket
from branchwise.strategies.auto import informed
from branchwise.strategies.equal import without_chance
from branchwise.strategies.options import check_count
from branchwise.types import Problem, Result


def submit(service: Service[Any], problem: Problem, options: SearchOptions) -> Ticket[Result]:
    """Queue a search. What the problem says of strategy, sampling and seed overrides the options.

    InputError, ConfigError: the problem cannot work.
    """
    check_problem(problem)
    settings = replace(
        options.settings,
        seed=options.settings.seed if problem.seed is None else problem.seed,
        sampling=options.settings.sampling if problem.sampling is None else problem.sampling,
    )
    strategy = informed(problem.strategy or options.strategy, options.outlook)
    if settings.sampling.is_greedy:
        strategy = without_chance(strategy)
    options = replace(options, strategy=strategy, settings=settings)
    return service.submit(Session(problem, options, service.pair, service.board))


def run(
    problems: Iterable[str | Problem],
    service: Service[Any],
    options: SearchOptions,
    *,
    max_in_flight: int,
    seconds: float | None = None,
) -> Iterator[Result]:
    """Search for the answer of every problem and yield results as they finish.

    At most `max_in_flight` problems are open, so the next one is taken when there is room for it. seconds: that one
    problem may take, from when it is taken. Each result, wall time and row statistics apart, depends on its problem
    alone: not on `max_in_flight`, on what else the service runs or on the order in which steps finish.

    A problem that fails has a result with an `error`, and so has what is no problem at all; repeats are told apart as
    `Intake` says. An error of the iterable itself is raised when all problems before it have their results.

    However this ends, by the last result, an error of a callback, an interrupt, or because the caller stops asking: no
    tree of it stays open. ConfigError for a bad `max_in_flight`, InputError for problems that are no iterable.
    """
    check_count("solve_many", "max_in_flight", max_in_flight)
    return _results(Intake(problems, options.settings.seed), service, options, max_in_flight, seconds)


def _results(
    intake: Intake, service: Service[Any], options: SearchOptions, max_in_flight: int, seconds: float | None
) -> Iterator[Result]:
    open_tickets: dict[Ticket[Result], None] = {}
    done: deque[Ticket[Result]] = deque()
    try:
        while True:
            while len(open_tickets) < max_in_flight and (taken := next(intake, None)) is not None:
                problem, error = taken
                if error is not None:
                    yield Session(problem, options, service.pair, service.board).failed(error)
                    continue
                deadline = None if seconds is None else time.monotonic() + seconds
                ticket = submit(service, problem, replace(options, deadline=deadline))
                open_tickets[ticket] = None
                ticket.add_done_callback(done.append)
            if not open_tickets:
                break
            service.wait(lambda: bool(done))
            while done:
                ticket = done.popleft()
                del open_tickets[ticket]
                yield outcome(ticket)
        if intake.failure is not None:
            raise intake.failure
    finally:
        with ExitStack() as stack:  # one that fails to close does not keep the others open
            for ticket in open_tickets:
                stack.callback(ticket.cancel)


def positive_seconds(seconds: float) -> float:
    """A deadline as a timeout. ConfigError: it is none."""
    if not is_number(Real, seconds) or not seconds > 0:
        raise ConfigError(f"deadline={seconds!r}: expected seconds from now, more than 0")
    return min(seconds, threading.TIMEOUT_MAX)


def outcome(ticket: Ticket[Result]) -> Result:
    """The result of a search that has ended, with its `error` if it failed. What a callback raised is raised."""
    try:
        return ticket.result()
    except BranchwiseError as error:
        assert isinstance(ticket.job, Session)
        return ticket.job.failed(error)
