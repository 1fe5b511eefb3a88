"""Where clients of all threads leave what they want, and who may run the service now."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

Order = Callable[[], None]


class Mailbox:
    """Orders for the service, the thread that runs it, and a bell that rings when something has changed.

    It outlives the service for as long as a background thread waits at it, and knows nothing of the service: so an
    engine that nobody holds is freed, thread and all.
    """

    def __init__(self) -> None:
        self.bell = threading.Condition()
        self.orders: deque[Order] = deque()
        self.runner: int | None = None  # ident of the thread that runs the service now
        self.brief = False  # and whether it only frees something
        self.home: int | None = None  # of the first one that did: kernels keep a pool of workers for each thread
        self.inside: int | None = None  # of the thread that is inside a step
        self.thread: threading.Thread | None = None
        self.stopping = False

    def post(self, order: Order) -> None:
        """Leave an order; any thread may."""
        with self.bell:
            self.orders.append(order)
            self.bell.notify_all()

    def ring(self) -> None:
        """Wake whoever waits for a change."""
        with self.bell:
            self.bell.notify_all()

    def stop(self) -> None:
        """Let the background thread end after its step."""
        with self.bell:
            self.stopping = True
            self.bell.notify_all()
