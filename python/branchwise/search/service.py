"""The service: the only caller of `Pair.poll`. Any number of jobs, from any thread, in the same batches."""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from traceback import clear_frames
from typing import Any, Generic

from branchwise.errors import EngineStateError
from branchwise.pair.protocol import Event, Pair, TreeT
from branchwise.search.loop import Loop, Order
from branchwise.search.process import Home
from branchwise.search.protocol import Job, Later
from branchwise.search.request import Board
from branchwise.search.ticket import Ticket


class Service(Generic[TreeT]):
    """Runs jobs on a pair. prepare: called once in every thread that is going to run kernels."""

    def __init__(self, pair: Pair[TreeT], prepare: Callable[[], None] = lambda: None) -> None:
        self.board = Board()
        self._pair = pair
        self._loop = Loop(prepare)
        self._turn = weakref.WeakMethod(self.turn)
        self._waiting: deque[Ticket[Any]] = deque()  # in order of submission
        self._running: dict[Job, Ticket[Any]] = {}
        self._later: dict[Job, Ticket[Any]] = {}  # over, but for what is done beside the service
        self._events: deque[Event] = deque()  # of the last poll, not yet handed out
        self._served: dict[Job, None] = {}  # jobs that may go on, in order
        self._full = False  # the first one that waits found no room, and nothing has ended since
        self._closed = False
        self.home = Home()
        weakref.finalize(self, _end, self._loop, self.home)

    # --- for clients, from any thread --------------------------------------------------------------------------

    @property
    def pair(self) -> Pair[TreeT]:
        """The policy and the judge. EngineStateError: the service is closed."""
        self.check_open()
        return self._pair

    def submit(self, job: Job) -> Ticket[Any]:
        """Queue a job. EngineStateError: the service is closed."""
        self.check_open()
        ticket: Ticket[Any] = Ticket(self, job)
        self._loop.post(partial(self._enter, ticket))
        return ticket

    def forget(self, ticket: Ticket[Any]) -> None:
        """A ticket was cancelled: free what it holds at the next step."""
        self.at_once(partial(self._drop, ticket))

    def at_once(self, order: Order, *, wait: bool = False) -> None:
        """Carry out an order that frees memory: now where nobody runs the service, else between two steps."""
        if wait:
            self.home.check()
        if self.home.is_here and not self._closed:
            self._loop.at_once(order, self._turn, wait=wait)

    def wait(self, done: Callable[[], bool], timeout: float | None = None) -> None:
        """Return when `done()`: run the service meanwhile, or wait where another thread does.

        TimeoutError after so many seconds. EngineStateError: called from inside a step, or in a forked child, where it
        could never come true.
        """
        if not done():
            self.home.check()
        self._loop.wait(done, self._turn, timeout)

    def start(self) -> None:
        """Run in a background thread from now on; again, it does nothing."""
        self.check_open()
        self._loop.start(self._turn)

    def stop(self) -> None:
        """End the background thread after its step. Open tickets go on when somebody waits for them, or at `start`."""
        self.home.check()
        self._loop.stop()

    def close(self) -> None:
        """Cancel everything, end the thread, free the models; again, it does nothing."""
        self.home.check()
        if self._closed:
            return
        self._loop.stop(self._turn)
        self._loop.take_orders()
        self._closed = True
        self._loop.take_orders()  # what came meanwhile is refused
        for ticket in [*self._waiting, *self._running.values(), *self._later.values()]:
            self._end(ticket, EngineStateError("the engine was closed before this was done"))
        self._pair.free()
        self._loop.ring()

    def check_open(self) -> None:
        """EngineStateError when it is closed, or this is a forked child."""
        self.home.check()
        if self._closed:
            raise EngineStateError("the engine is closed: make a new one")

    # --- the loop ----------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One turn: take in what clients want, run one turn of the pair, let the jobs it served go on.

        EngineStateError: another thread runs the service, or this one is inside a step already.
        """
        with self._loop.step():
            self._take_orders()
            self._admit()
            self._cut_late()
            if not self._served and not self._events:
                self._poll()
            while self._events:
                self._hand_out(self._events.popleft())
            while self._served:
                job = next(iter(self._served))
                del self._served[job]
                self._guard(job, partial(self._advance, job))
        self._take_orders()

    def turn(self) -> bool:
        """Take a step if there is anything to do; whether there was."""
        if not (self._loop.orders or self._waiting or self._running):
            return False
        self.step()
        return True

    def _advance(self, job: Job) -> None:
        job.advance()
        if job.is_over:
            self._finish(job)

    def _finish(self, job: Job) -> None:
        result = job.finish()
        self._full = False
        ticket = self._running.pop(job)
        if isinstance(result, Later):
            self._later[job] = ticket
            result.needs.add_done_callback(lambda _: self._loop.post(partial(self._complete, job, result)))
        else:
            self._resolve(ticket, result)

    def _complete(self, job: Job, later: Later) -> None:
        """What a result waited for is there."""
        ticket = self._later.pop(job, None)
        if ticket is None:  # the service was closed meanwhile
            return
        try:
            self._resolve(ticket, later.then(later.needs))
        except Exception as error:
            ticket.fail(error)
            self._loop.ring()

    def _resolve(self, ticket: Ticket[Any], result: Any) -> None:
        if not ticket.resolve(result):  # cancelled just now
            ticket.job.abort()
        self._loop.ring()

    def _hand_out(self, event: Event) -> None:
        """A step or a score to those who wait for it."""
        for request in self.board.waiting(event):
            self._served[request.job] = None
            self._guard(request.job, partial(request.take, event))

    def _guard(self, job: Job, act: Callable[[], None]) -> None:
        """What a job raises ends that job alone."""
        if job not in self._running:
            return
        try:
            act()
        except BaseException as error:
            self._end(self._running[job], error)
            if not isinstance(error, Exception):
                raise

    def _poll(self) -> None:
        """One turn of the pair. What goes wrong there is everybody's."""
        if self._pair.idle:
            for ticket in list(self._running.values()):
                self._end(ticket, RuntimeError("nothing is in flight for a job that is not over"))
            return
        try:
            self._events.extend(self._pair.poll())
            for job, look in list(self.board.watching.items()):
                self._guard(job, look)
        except BaseException as error:  # an iteration was torn: nobody's rows are where they should be
            for ticket in list(self._running.values()):
                self._end(ticket, error)
            if not isinstance(error, Exception):
                raise

    # --- who comes and goes ------------------------------------------------------------------------------------

    def end(self, job: Job, error: Exception) -> None:
        """End a job that is running, or waits for room, with an error: from an order only."""
        for ticket in [*self._waiting, *self._running.values()]:
            if ticket.job is job:
                self._end(ticket, error)

    def _take_orders(self) -> None:
        if self._loop.take_orders():
            self._full = False

    def _enter(self, ticket: Ticket[Any]) -> None:
        if self._closed:
            ticket.fail(EngineStateError("the engine was closed before this was done"))
            return
        self._waiting.append(ticket)

    def _drop(self, ticket: Ticket[Any]) -> None:
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        elif self._running.get(ticket.job) is ticket:
            del self._running[ticket.job]
        else:
            return
        ticket.job.abort()
        self._loop.ring()

    def _admit(self) -> None:
        """Begin the jobs that find room, first come, first served; those that need none do not wait."""
        for ticket in [ticket for ticket in self._waiting if not ticket.job.needs_room]:
            self._begin(ticket)
        while True:
            if not self._waiting or (self._full and self._running):
                return
            self._full = not self._begin(self._waiting[0])
            if self._full:
                return

    def _begin(self, ticket: Ticket[Any]) -> bool:
        """Let a job that waits begin; False when it found no room."""
        try:
            if not ticket.cancelled() and not ticket.job.begin():
                return False
        except BaseException as error:
            self._end(ticket, error)
            if not isinstance(error, Exception):
                raise
            return True
        self._waiting.remove(ticket)
        if not ticket.cancelled():
            self._running[ticket.job] = ticket
            if ticket.job.is_over:
                self._served[ticket.job] = None
        return True

    def _cut_late(self) -> None:
        """Tell jobs whose deadline has passed; those that still wait for room are over, too."""
        now = None
        for ticket in [*self._running.values(), *self._waiting]:
            deadline = ticket.job.deadline
            if deadline is not None and deadline <= (now := now or time.monotonic()):
                ticket.job.deadline = None
                ticket.job.cut()
                self._served[ticket.job] = None
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                    self._running[ticket.job] = ticket

    def _end(self, ticket: Ticket[Any], error: BaseException) -> None:
        """End a job with an error, an interrupt of the whole engine among them; what it holds is free."""
        if not isinstance(error, Exception):
            error = EngineStateError(f"interrupted ({type(error).__name__}) in the middle of this: ask again")
        _clear(error)
        self._full = False
        self._running.pop(ticket.job, None)
        self._later.pop(ticket.job, None)
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        try:
            ticket.job.abort()
        except Exception as failure:
            error = failure
        ticket.fail(error)
        self._loop.ring()


def _clear(error: BaseException | None) -> None:
    """Let go of what the frames of an error saw, models among it: somebody may keep the error for long."""
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _end(loop: Loop, home: Home) -> None:
    if home.is_here:
        loop.end()
