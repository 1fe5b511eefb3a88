"""An engine stays in the process that made it: a forked child has its memory, but not the threads that run it."""

from __future__ import annotations

import os

from branchwise.errors import EngineStateError

_threaded: int | None = None  # the process in which an engine ran several threads: libgomp hangs in its children


class Home:
    """The process in which something was made."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def is_here(self) -> bool:
        """False in a forked child."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """EngineStateError in a forked child."""
        if not self.is_here:
            raise EngineStateError(
                f"this engine was made in process {self._pid}, and this is process {os.getpid()}, forked from it: make"
                " an engine in each process, with the start method 'spawn'"
            )


def enter(threads: int | None = None) -> None:
    """An engine is about to be made (None), or has been, with so many threads.

    EngineStateError: this process was forked from one where an engine has run several.
    """
    global _threaded
    if _threaded not in (None, os.getpid()):
        raise EngineStateError(
            f"process {os.getpid()} was forked from process {_threaded}, where an engine has run with several threads,"
            " which do not survive that: start processes with the method 'spawn', or make no engine before the fork"
        )
    if threads is not None and threads > 1:
        _threaded = os.getpid()
