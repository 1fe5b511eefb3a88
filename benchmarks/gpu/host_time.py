"""What the host needs between bursts, measured on the machine that runs this: nothing is computed, so all is host."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class HostClock:
    """CPU seconds of this process, less those in which the benchmark does what no engine would do.

    Nothing here waits, so the host would need as much time if it had a core for itself.
    """

    gaps: list[float] = field(default_factory=list)  # seconds from a burst's end to the next one's first iteration
    rows: list[int] = field(default_factory=list)  # of the burst behind each gap
    passes: dict[str, list[float]] = field(default_factory=dict)  # seconds to launch each pass, by kind
    _aside: float = 0.0
    _landed: float | None = None

    def now(self) -> float:
        return time.process_time() - self._aside

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Not the host's usual work: counting, recording."""
        begin = time.process_time()
        try:
            yield
        finally:
            self._aside += time.process_time() - begin

    def landed(self) -> None:
        """A burst is over."""
        self._landed = self.now()

    def started(self, rows: int) -> None:
        """The first iteration of a burst is queued; between the two the policy's stream had nothing to do."""
        if self._landed is not None:
            self.gaps.append(self.now() - self._landed)
            self.rows.append(rows)
            self._landed = None

    @contextmanager
    def launching(self, kind: str) -> Iterator[None]:
        """A pass is launched; if it is the policy's, the device works until the next burst."""
        begin = self.now()
        yield
        self.passes.setdefault(kind, []).append(self.now() - begin)
        if kind == "opening":
            self._landed = None
