"""Reading in threads, ahead of whoever packs: dequantising keeps one core busy, and the others would wait for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

import torch

MOST = 4  # all of them are held in memory

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class ReadAhead(Generic[Key, Value]):
    """`read(key)` of keys that are known beforehand, about in their order: one for each core, and a few at most.

    A context manager: what was not asked for is given up at its end. An error of `read` is raised to who asks for its
    key.
    """

    def __init__(self, read: Callable[[Key], Value], keys: Iterable[Key], ahead: int | None = None) -> None:
        ahead = min(torch.get_num_threads(), MOST) if ahead is None else ahead
        self._read = read
        self._waiting = deque(keys)
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(ahead, thread_name_prefix="read-ahead")
        self._reading: dict[Key, Future[Value]] = {}
        self._fill()

    def __call__(self, key: Key) -> Value:
        """What `read(key)` gives. Every key once; others than those announced are read now."""
        future = self._reading.pop(key, None)
        if future is None:
            if key in self._waiting:
                self._waiting.remove(key)
            future = self._pool.submit(self._read, key)
        self._fill()
        return future.result()

    def _fill(self) -> None:
        while self._waiting and len(self._reading) < self._ahead:
            key = self._waiting.popleft()
            self._reading[key] = self._pool.submit(self._read, key)

    def __enter__(self) -> ReadAhead[Key, Value]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
