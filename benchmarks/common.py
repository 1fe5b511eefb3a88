"""How every benchmark measures, describes the machine, and stores results."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

RESULTS = Path(__file__).parent / "results"
Clock = Literal["wall", "cpu"]
CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per call: the median, the distance between the quartiles and the best of `runs` calls."""

    median_s: float
    iqr_s: float
    best_s: float
    runs: int


def timing_of(seconds: list[float]) -> Timing:
    low, median, high = statistics.quantiles(seconds, n=4)
    return Timing(median, high - low, min(seconds), len(seconds))


def measure(
    function: Callable[[], object], *, budget_s: float = 0.3, min_runs: int = 5, clock: Clock = "wall"
) -> Timing:
    """Time calls one by one until `budget_s` is spent, after one call to warm up.

    The cpu clock counts this process's processor time: with one thread it stays right while others use the machine.
    """
    now = CLOCKS[clock]
    function()
    times: list[float] = []
    end = time.perf_counter() + budget_s
    while len(times) < min_runs or time.perf_counter() < end:
        begin = now()
        function()
        times.append(now() - begin)
    return timing_of(times)


def in_turn(functions: list[Callable[[], object]], budget_s: float, clock: Clock = "wall") -> list[Timing]:
    """Timings of functions that take turns, so that noise hits all of them; `budget_s` seconds each."""
    now = CLOCKS[clock]
    times: list[list[float]] = [[] for _ in functions]
    end = time.perf_counter() + budget_s * len(functions)
    while len(times[0]) < 6 or time.perf_counter() < end:
        for function, mine in zip(functions, times, strict=True):
            begin = now()
            function()
            mine.append(now() - begin)
    return [timing_of(mine[1:]) for mine in times]


def read_bandwidth(size: int = 1 << 30, clock: Clock = "wall") -> float:
    """GB/s at which torch's threads read memory that is in no cache: the best of 7 sums over `size` bytes."""
    values, best, now = torch.ones(size // 4), float("inf"), CLOCKS[clock]
    for _ in range(7):
        begin = now()
        values.sum()
        best = min(best, now() - begin)
    return size / best / 1e9


def machine() -> dict[str, Any]:
    """What a result depends on besides the code: processor, cores, threads, load, versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        names = {key.strip(): value.strip() for key, value in fields.items()}
        model = f"{names.get('model name', model)} (family {names.get('cpu family')} model {names.get('model')})"
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def append(name: str, records: list[dict[str, Any]]) -> Path:
    """Append records, each with the machine's description, to results/`name`.jsonl; returns the file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.jsonl"
    here = machine()
    with path.open("a") as file:
        for record in records:
            file.write(json.dumps({**record, "machine": here}) + "\n")
    return path


def report(results: str, records: Iterable[dict[str, Any]], save: bool) -> None:
    """Print every record as it is made; with `save` append all to benchmarks/results/<results>.jsonl at the end."""
    made = []
    for record in records:
        print(json.dumps(record), flush=True)
        made.append(record)
    if save:
        append(results, made)
