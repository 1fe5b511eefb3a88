"""When the device works: an interval for every recorded iteration and every pass, by the device's own clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from branchwise.backend.gpu.backend import TritonBackend
from branchwise.engine.runner import Runner

Interval = tuple[float, float]  # seconds since the watch began


class Watch:
    """Wraps what queues work on a backend. `replays` and `passes` are read after `stop`."""

    def __init__(self, backend: TritonBackend) -> None:
        self.backend = backend
        self._marks: dict[str, list[tuple[Any, Any]]] = {"replays": [], "passes": []}
        self._begin = self._now()
        self._graph = backend.graph
        backend.graph = self._recorded  # type: ignore[method-assign]

    def _recorded(self, function: Callable[[], None]) -> Callable[[], None]:
        return self._timed("replays", self._graph(function))

    def runner(self, runner: Runner) -> None:
        """Watch the passes of a runner, too."""
        runner.forward = self._timed("passes", runner.forward)  # type: ignore[method-assign]

    def _timed(self, kind: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            start = self._now()
            result = run(*args)
            self._marks[kind].append((start, self._now()))
            return result

        return timed

    def _now(self) -> Any:
        if self.backend.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _since(self, mark: Any) -> float:
        if self.backend.device.type != "cuda":
            return float(mark - self._begin)
        return float(self._begin.elapsed_time(mark)) / 1e3

    def clear(self) -> None:
        """Forget what was seen, as after a warm-up."""
        for marks in self._marks.values():
            marks.clear()
        self._begin = self._now()

    def intervals(self, kind: str) -> list[Interval]:
        """Of "replays" or "passes", in order; waits for the device."""
        if self.backend.device.type == "cuda":
            torch.cuda.synchronize(self.backend.device)
        return [(self._since(start), self._since(end)) for start, end in self._marks[kind]]

    def busy(self) -> float:
        """Seconds in which the device had work, gaps inside a pass counted as work."""
        total, until = 0.0, 0.0
        for start, end in sorted(self.intervals("replays") + self.intervals("passes")):
            total += max(0.0, end - max(start, until))
            until = max(until, end)
        return total


def gaps(intervals: list[Interval], burst: int) -> list[float]:
    """Seconds between the last iteration of a burst and the first of the next."""
    return [
        begin - end
        for (_, end), (begin, _) in zip(intervals[burst - 1 :: burst], intervals[burst::burst], strict=False)
    ]
