"""The service: the only caller of `Pair.poll`. Any number of jobs, from any thread, in the same batches.

A single caller runs it until its own ticket is done. A second thread, an event loop or `start` moves the loop to one
background thread, where it stays until `stop`: libgomp keeps a pool of workers for every thread that calls it, so only
one thread ever runs kernels.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Generic

from branchwise.errors import EngineStateError, OutOfMemory
from branchwise.pair.protocol import Event, Pair, TreeT
from branchwise.search.mailbox import Mailbox
from branchwise.search.protocol import Job
from branchwise.search.request import Board
from branchwise.search.ticket import Ticket

PATIENCE_SECONDS = 5.0  # for a tree that somebody else may close, when nothing else can make room


class Service(Generic[TreeT]):
    """Runs jobs on a pair. prepare: called once in every thread that is going to run kernels."""

    def __init__(self, pair: Pair[TreeT], prepare: Callable[[], None] = lambda: None) -> None:
        self._pair = pair
        self.board = Board()
        self._prepare = prepare
        self._mailbox = Mailbox()
        self._waiting: deque[Ticket[Any]] = deque()  # for room, in order of submission
        self._running: dict[Job, Ticket[Any]] = {}
        self._events: deque[Event] = deque()  # of the last poll, not yet handed out
        self._served: dict[Job, None] = {}  # jobs that may go on, in order
        self._submitted = 0
        self._full = False  # the first one that waits found no room, and nothing has ended since
        self._blocked_since: float | None = None
        self._closed = False
        weakref.finalize(self, self._mailbox.stop)

    @property
    def pair(self) -> Pair[TreeT]:
        """The policy and the judge. EngineStateError: the service is closed."""
        self.check_open()
        return self._pair

    # --- for clients, from any thread --------------------------------------------------------------------------

    def submit(self, job: Job) -> Ticket[Any]:
        """Queue a job. EngineStateError: the service is closed."""
        self.check_open()
        ticket: Ticket[Any] = Ticket(self, job)
        self._mailbox.post(lambda: self._enter(ticket))
        return ticket

    def forget(self, ticket: Ticket[Any]) -> None:
        """A ticket was cancelled: free what it holds at the next step."""
        self.at_once(lambda: self._drop(ticket))

    def wait(self, done: Callable[[], bool], timeout: float | None = None) -> None:
        """Return when `done()`: run the service meanwhile, or wait where another thread does.

        TimeoutError after so many seconds. EngineStateError: called from inside a step, where it could never come true.
        """
        end = None if timeout is None else time.monotonic() + timeout
        box, me = self._mailbox, threading.get_ident()
        if box.inside == me and not done():
            raise EngineStateError(
                "a callback or a strategy waits for the engine that calls it: submit() and look at its ticket later"
            )
        while not done():
            if self._take_over(me):
                try:
                    while not done() and box.thread is None:
                        self._check_time(end)
                        self.step()
                finally:
                    self._hand_over()
            else:
                with box.bell:
                    left = None if end is None else end - time.monotonic()
                    box.bell.wait_for(lambda: done() or box.thread is None, left)
                self._check_time(end) if not done() else None

    def start(self) -> None:
        """Run in a background thread from now on; again, it does nothing."""
        self.check_open()
        box = self._mailbox
        with box.bell:
            if box.thread is None:
                box.stopping = False
                box.thread = threading.Thread(
                    target=_run, args=(weakref.ref(self), box), name="branchwise-service", daemon=True
                )
                box.thread.start()

    def stop(self) -> None:
        """End the background thread after its step. Open tickets go on when somebody waits for them, or at `start`."""
        box = self._mailbox
        if box.inside == threading.get_ident():
            raise EngineStateError("stop() and close() cannot be called from inside a step of the engine")
        with box.bell:
            thread = box.thread
        if thread is not None:
            box.stop()
            thread.join()

    def close(self) -> None:
        """Cancel everything, end the thread; again, it does nothing."""
        if self._closed:
            return
        if self._mailbox.runner not in (None, threading.get_ident()):
            self.start()  # whoever runs it lets go
        self.stop()
        self._take_orders()
        self._closed = True
        self._take_orders()  # what came meanwhile is refused
        for ticket in [*self._waiting, *self._running.values()]:
            self._end(ticket, EngineStateError("the engine was closed before this was done"))
        self._pair.free()
        self._mailbox.ring()

    def at_once(self, order: Callable[[], None], *, wait: bool = False) -> None:
        """Have something done that frees memory: now where nobody runs the service, else between two steps.

        A finaliser may call this anywhere, also in the middle of a step. wait: return when it is done, but for a call
        from inside a step.
        """
        box, me = self._mailbox, threading.get_ident()
        if self._closed:
            return
        done = threading.Event()

        def carry_out() -> None:
            try:
                order()
            finally:
                done.set()
                box.ring()

        box.post(carry_out)
        if box.thread is None and self._take_over(me, settle=False):
            try:
                self._take_orders()
            finally:
                self._hand_over()
        if wait and box.inside != me:
            self.wait(lambda: done.is_set() or self._closed)

    def end(self, job: Job, error: Exception) -> None:
        """End a job that is running, or waits for room, with an error: from an order only."""
        for ticket in [*self._waiting, *self._running.values()]:
            if ticket.job is job:
                self._end(ticket, error)

    # --- the loop ----------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One turn: take in what clients want, run one turn of the pair, let the jobs it served go on.

        EngineStateError: another thread runs the service, or this one is inside a step already.
        """
        box, me = self._mailbox, threading.get_ident()
        if box.inside is not None or box.runner not in (None, me):
            raise EngineStateError("step() belongs to one thread, outside of callbacks: wait for a ticket instead")
        box.inside = me
        try:
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
        finally:
            box.inside = None
        self._take_orders()

    @property
    def idle(self) -> bool:
        """True when there is nothing to do."""
        return not (self._mailbox.orders or self._waiting or self._running)

    def _advance(self, job: Job) -> None:
        job.advance()
        if job.is_over:
            self._finish(job)

    def _finish(self, job: Job) -> None:
        result = job.finish()
        self._full = False
        if not self._running.pop(job).resolve(result):  # cancelled just now
            job.abort()
        self._mailbox.ring()

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
        """One turn of the pair. What goes wrong there is everybody's, but for want of memory."""
        if self._pair.idle:
            for ticket in list(self._running.values()):
                self._end(ticket, RuntimeError("nothing is in flight for a job that is not over"))
            return
        try:
            self._events.extend(self._pair.poll())
        except OutOfMemory as error:
            self._make_room(error)
        except BaseException as error:  # an iteration was torn: nobody's rows are where they should be
            for ticket in list(self._running.values()):
                self._end(ticket, error)
            if not isinstance(error, Exception):
                raise

    def _make_room(self, error: OutOfMemory) -> None:
        """End the jobs of the tree that holds most beyond what it was promised."""
        requests = self.board.requests()
        worst = max((request.tree for request in requests), key=self._pair.over)
        for job in {request.job for request in requests if request.tree is worst}:
            self._end(self._running[job], error)

    # --- who comes and goes ------------------------------------------------------------------------------------

    def _take_orders(self) -> None:
        orders = self._mailbox.orders
        while orders:
            self._full = False
            orders.popleft()()

    def _enter(self, ticket: Ticket[Any]) -> None:
        if self._closed:
            ticket.fail(EngineStateError("the engine was closed before this was done"))
            return
        self._submitted += 1
        ticket.number = self._submitted
        self._waiting.append(ticket)

    def _drop(self, ticket: Ticket[Any]) -> None:
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        elif self._running.get(ticket.job) is ticket:
            del self._running[ticket.job]
        else:
            return
        ticket.job.abort()
        self._mailbox.ring()

    def _admit(self) -> None:
        """Begin the jobs that find room, first come, first served; those that need none do not wait."""
        for ticket in [ticket for ticket in self._waiting if not ticket.job.needs_room]:
            self._begin(ticket)
        while True:
            if not self._waiting or (self._full and self._running):
                return
            ticket = self._waiting[0]
            self._full = not self._begin(ticket)
            if self._full:
                self._check_room(ticket)
                return
            self._blocked_since = None

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

    def _check_room(self, ticket: Ticket[Any]) -> None:
        """Nothing else runs, so only who holds a tree by hand can make room: refuse, after a while if it may be so."""
        if self._running:
            self._blocked_since = None
            return
        now = time.monotonic()
        self._blocked_since = self._blocked_since or now
        if self._mailbox.thread is not None and now - self._blocked_since < PATIENCE_SECONDS:
            with self._mailbox.bell:
                self._mailbox.bell.wait_for(lambda: self._mailbox.orders or self._mailbox.stopping, 0.1)
            return
        self._blocked_since = None
        self._end(
            ticket,
            OutOfMemory(
                "there is no room though nothing else runs: trees opened by hand hold the KV that it needs. Close them,"
                " lower n or max_tokens, or raise kv_memory"
            ),
        )

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
        self._full = False
        self._running.pop(ticket.job, None)
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        try:
            ticket.job.abort()
        except Exception as failure:
            error = failure
        ticket.fail(error)
        self._mailbox.ring()

    # --- threads -----------------------------------------------------------------------------------------------

    def _take_over(self, me: int, *, settle: bool = True) -> bool:
        """Whether this thread runs the service from now on; another one than before means a background thread.

        settle: it is going to run kernels
        """
        box = self._mailbox
        with box.bell:
            box.bell.wait_for(lambda: not box.brief or box.runner == me)
            if box.thread is not None:
                return False
            if box.runner is not None or (settle and box.home not in (None, me)):
                if settle:
                    self.start()
                return False
            box.runner, box.brief = me, not settle
            if settle and box.home is None:
                box.home = me
                self._prepare()
            return True

    def _hand_over(self) -> None:
        with self._mailbox.bell:
            self._mailbox.runner, self._mailbox.brief = None, False
            self._mailbox.bell.notify_all()

    def check_open(self) -> None:
        """EngineStateError when it is closed."""
        if self._closed:
            raise EngineStateError("the engine is closed: make a new one")

    @staticmethod
    def _check_time(end: float | None) -> None:
        if end is not None and time.monotonic() >= end:
            raise TimeoutError("the result is not there yet")


def _run(reference: weakref.ref[Service[Any]], box: Mailbox) -> None:
    """The background thread: steps while there is something to do, and holds the service no longer than that."""
    me = threading.get_ident()
    with box.bell:
        box.bell.wait_for(lambda: box.runner is None)
        box.runner = me
    prepared = False
    try:
        while not box.stopping:
            service = reference()
            if service is None:
                return
            if not prepared:
                service._prepare()
                prepared = True
            while not service.idle and not box.stopping:
                service.step()
            del service
            with box.bell:
                box.bell.wait_for(lambda: box.orders or box.stopping)
    finally:
        with box.bell:
            box.runner, box.thread, box.stopping, box.home = None, None, False, None
            box.bell.notify_all()
