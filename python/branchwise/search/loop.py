"""Who runs the service: one caller until its ticket is done, or one background thread from then on.

libgomp keeps a pool of workers for every thread that calls it, so only one thread ever runs kernels: a second thread
that waits, an event loop or `start` moves the loop to the background, where it stays until `stop`. A `Loop` knows
nothing of the service but a weak method, so that an engine that nobody holds is freed, thread and all.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from branchwise.errors import EngineStateError

Order = Callable[[], None]
Turn = Callable[[], bool]  # run a step if there is something to do; whether there was


class Loop:
    """Orders of clients, the thread that runs, and a bell that rings when something has changed.

    prepare: called once in every thread that is going to run kernels
    """

    def __init__(self, prepare: Callable[[], None]) -> None:
        self.orders: deque[Order] = deque()
        self._bell = threading.Condition()
        self._prepare = prepare
        self._runner: int | None = None  # ident of the thread that runs now
        self._brief = False  # and whether it only carries out orders
        self._home: int | None = None  # the thread that ran kernels first
        self._inside: int | None = None  # the thread that is inside a step
        self._thread: threading.Thread | None = None
        self._stopping = False

    # --- for clients, from any thread --------------------------------------------------------------------------

    def post(self, order: Order) -> None:
        """Leave an order for the next step."""
        with self._bell:
            self.orders.append(order)
            self._bell.notify_all()

    def ring(self) -> None:
        """Wake whoever waits for a change."""
        with self._bell:
            self._bell.notify_all()

    def at_once(self, order: Order, turn: weakref.WeakMethod[Turn], *, wait: bool) -> None:
        """Carry out an order that frees memory: now where nobody runs, else between two steps.

        A finaliser may call this anywhere, also in the middle of a step. wait: return when it is done, but for a call
        from inside a step.
        """
        done = threading.Event()

        def carry_out() -> None:
            try:
                order()
            finally:
                done.set()
                self.ring()

        self.post(carry_out)
        me = threading.get_ident()
        if self._thread is None and self._take_over(me, turn, brief=True):
            try:
                self.take_orders()
            finally:
                self._hand_over()
        if wait and self._inside != me:
            self.wait(done.is_set, turn)

    def wait(self, done: Callable[[], bool], turn: weakref.WeakMethod[Turn], timeout: float | None = None) -> None:
        """Return when `done()`: run meanwhile, or wait where another thread runs.

        TimeoutError after so many seconds. EngineStateError: called from inside a step, where it could never come true.
        """
        end = None if timeout is None else time.monotonic() + timeout
        me = threading.get_ident()
        if self._inside == me and not done():
            raise EngineStateError(
                "a callback or a strategy waits for the engine that calls it: submit() and look at its ticket later"
            )
        while not done():
            left = _left(end)
            if left is not None and left <= 0:
                raise TimeoutError("the result is not there yet")
            if self._take_over(me, turn):
                self._run_until(lambda: done() or self._thread is not None, turn, end)
            else:
                with self._bell:
                    self._bell.wait_for(lambda: done() or self._thread is None, left)

    def start(self, turn: weakref.WeakMethod[Turn]) -> None:
        """Run in a background thread from now on; again, it does nothing."""
        with self._bell:
            if self._thread is None:
                self._stopping = False
                run = threading.Thread(target=self._run, args=(turn,), name="branchwise-service", daemon=True)
                self._thread = run
                run.start()

    def stop(self, turn: weakref.WeakMethod[Turn] | None = None) -> None:
        """End the background thread after its step. turn: whoever runs in the foreground lets go, too."""
        me = threading.get_ident()
        if self._inside == me:
            raise EngineStateError("stop() and close() cannot be called from inside a step of the engine")
        if turn is not None and self._runner not in (None, me):
            self.start(turn)  # whoever runs hands over
        self.end()

    def end(self) -> None:
        """Let the background thread end, and wait for it: also when nobody holds the service, or Python ends."""
        with self._bell:
            thread = self._thread
            self._stopping = True
            self._bell.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    # --- for the service, inside its turn ----------------------------------------------------------------------

    def take_orders(self) -> bool:
        """Carry out what clients left; whether there was anything."""
        found = bool(self.orders)
        while self.orders:
            self.orders.popleft()()
        return found

    @contextmanager
    def step(self) -> Iterator[None]:
        """The time of one step. EngineStateError: another thread runs, or this one is inside a step already."""
        me = threading.get_ident()
        if self._inside is not None or self._runner not in (None, me):
            raise EngineStateError("step() belongs to one thread, outside of callbacks: wait for a ticket instead")
        self._inside = me
        try:
            yield
        finally:
            self._inside = None

    # --- threads -----------------------------------------------------------------------------------------------

    def _take_over(self, me: int, turn: weakref.WeakMethod[Turn], *, brief: bool = False) -> bool:
        """Whether this thread runs from now on. Where another one does, or did, that becomes a background thread."""
        with self._bell:
            self._bell.wait_for(lambda: not self._brief or self._runner == me)
            if self._thread is not None:
                return False
            if self._runner is not None or (not brief and self._home not in (None, me)):
                if not brief:
                    self.start(turn)
                return False
            self._runner, self._brief = me, brief
            if not brief and self._home is None:
                self._home = me
                self._prepare()
            return True

    def _hand_over(self) -> None:
        with self._bell:
            self._runner, self._brief = None, False
            self._bell.notify_all()

    def _run_until(self, over: Callable[[], bool], turn: weakref.WeakMethod[Turn], end: float | None) -> None:
        """Run in the foreground."""
        try:
            take_turn = turn()
            while take_turn is not None and not over() and (end is None or time.monotonic() < end):
                if not take_turn():  # it is for somebody else to go on
                    with self._bell:
                        self._bell.wait_for(lambda: over() or self.orders, _left(end))
        finally:
            self._hand_over()

    def _run(self, turn: weakref.WeakMethod[Turn]) -> None:
        """Run in the background: holds the service only while there is something to do."""
        with self._bell:
            self._bell.wait_for(lambda: self._runner is None)
            self._runner = threading.get_ident()
        self._prepare()
        try:
            while not self._stopping and (take_turn := turn()) is not None:
                while not self._stopping and take_turn():
                    pass
                del take_turn
                with self._bell:
                    self._bell.wait_for(lambda: self.orders or self._stopping)
        finally:
            with self._bell:
                self._thread = self._home = None
                self._stopping = False
            self._hand_over()


def _left(end: float | None) -> float | None:
    return None if end is None else end - time.monotonic()
