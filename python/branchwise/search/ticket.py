"""A ticket: the promise of a result, to be waited for in a thread or awaited in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from numbers import Real
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from branchwise.config import is_number
from branchwise.errors import ConfigError
from branchwise.search.protocol import Job

if TYPE_CHECKING:
    from branchwise.search.service import Service

Value = TypeVar("Value")


class Ticket(Generic[Value]):
    """What a client holds of its job."""

    def __init__(self, service: Service[Any], job: Job) -> None:
        self.job = job
        self._service = service
        self._future: Future[Value] = Future()
        self._callbacks: list[Callable[[Ticket[Value]], None]] = []  # a future would keep them, and so this, for ever

    def done(self) -> bool:
        """Whether it has ended: with a result, an error, or cancelled."""
        return self._future.done()

    def cancelled(self) -> bool:
        return self._future.cancelled()

    def result(self, timeout: float | None = None) -> Value:
        """Wait for the result, driving the service if nobody does. Raises what the job ended with.

        TimeoutError: it is not there after so many seconds. CancelledError: the ticket was cancelled.
        """
        if timeout is not None and not is_number(Real, timeout):
            raise ConfigError(f"timeout={timeout!r}: expected seconds, or None to wait as long as it takes")
        self._service.wait(self.done, timeout)
        return self._future.result(timeout=0)

    def cancel(self) -> bool:
        """Give up: rows and KV are free at the next step. False when it has ended already."""
        return not self.done() and self._future.cancel() and self._forget()

    def add_done_callback(self, callback: Callable[[Ticket[Value]], None]) -> None:
        """Call back when it has ended, in the thread that runs the service, or at once."""
        if not callable(callback):
            raise ConfigError(f"callback={callback!r}: expected a function that takes a ticket")
        self._callbacks.append(callback)
        if self.done():
            self._notify()

    def __await__(self) -> Generator[Any, None, Value]:
        """Wait without blocking the event loop; the service's own thread runs it meanwhile."""
        self._service.start()
        future = asyncio.wrap_future(self._future)
        future.add_done_callback(lambda done: self._forget() if done.cancelled() else None)
        return future.__await__()

    def resolve(self, value: Value) -> bool:
        """The job has ended well; False when the ticket was cancelled before."""
        if not self._future.set_running_or_notify_cancel():
            return False
        self._future.set_result(value)
        self._notify()
        return True

    def fail(self, error: BaseException) -> None:
        """The job has ended with an error; nothing happens when the ticket was cancelled."""
        if not self._future.done() and self._future.set_running_or_notify_cancel():
            self._future.set_exception(error)
            self._notify()

    def _forget(self) -> bool:
        """It was cancelled: free what it holds."""
        self._service.forget(self)
        self._notify()
        return True

    def _notify(self) -> None:
        while self._callbacks:
            self._callbacks.pop(0)(self)
