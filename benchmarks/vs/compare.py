"""Starts the sides of a comparison, lets them take turns, and makes one record of every run."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.vs import venvs
from benchmarks.vs.protocol import Json, Side, SideError, TimedLock, alternate

ISAS = {
    "native": {"BENCHMARKS_VS_ISA": "native"},
    "avx512_bf16": {
        "BENCHMARKS_VS_ISA": "avx512_bf16",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",
        "BRANCHWISE_CPU_ISA": "avx512_bf16",
    },
}
"""Variables that bind every side to an instruction set: with AMX masked, a new Xeon speaks for a machine without it."""


@dataclass(frozen=True)
class Entry:
    """A side that is wanted: its name in the results, the rival it belongs to (None: us), and how it is opened."""

    name: str
    rival: str | None
    options: Json = field(default_factory=dict)

    def start(self, isa: str) -> Side:
        """isa: a key of `ISAS`. Raises SideError."""
        log = venvs.cache_folder() / "logs" / f"{self.name}.log"
        if self.rival is None:
            return Side(self.name, Path(sys.executable), "benchmarks.vs.ours", log, dict(ISAS[isa]), self.options)
        rival = venvs.RIVALS[self.rival]
        environment = {**venvs.environment(self.rival), **ISAS[isa]}
        return Side(self.name, venvs.python_of(self.rival), rival.module, log, environment, self.options)


def installed(entries: Sequence[Entry]) -> list[Entry]:
    """The entries that can run; of the others it is said how to install them."""
    for name in dict.fromkeys(entry.rival for entry in entries if entry.rival):
        if message := venvs.missing(name):
            print(message, file=sys.stderr)
    return [entry for entry in entries if entry.rival is None or venvs.missing(entry.rival) is None]


@contextlib.contextmanager
def started(entries: Sequence[Entry], isa: str = "native") -> Iterator[list[Side]]:
    """All sides that start, one after the other; one that does not is reported and left out."""
    sides: list[Side] = []
    try:
        for entry in entries:
            print(f"starting {entry.name} ...", file=sys.stderr, flush=True)
            try:
                sides.append(entry.start(isa))
            except SideError as error:
                print(f"left out: {error}", file=sys.stderr)
        yield sides
    finally:
        for side in sides:
            side.close()


def compare(
    sides: Sequence[Side],
    op: str,
    runs: int,
    case: Json,
    arguments: Callable[[Side, int], Json],
    lock: TimedLock,
) -> list[Json]:
    """Run one case on all sides in turn; a record per side and run, all with the same `group`."""
    group = f"{op}-{time.time_ns() // 1_000_000}"
    records = []
    for side, run, reply in alternate(sides, op, runs, arguments, lock):
        if run < 0:
            continue
        about = {"versions": side.about["versions"], "flags": side.about["flags"]}
        records.append({"bench": "vs", "group": group, "side": side.name, "run": run, **case, **reply, **about})
    for side in sides:
        mine = [record for record in records if record["side"] == side.name]
        print(f"  {side.name:<20} {summary(mine, records)}", flush=True)
    return records


def tokens_per_s(record: Json) -> float:
    """Tokens that count, by the clock: accepted ones in a search, generated ones elsewhere."""
    return float(record.get("accepted_tokens", record.get("tokens", 0)) / record["seconds"])


def summary(mine: Sequence[Json], all_records: Sequence[Json]) -> str:
    """Median tokens/s of a side, and how many times faster the first side is."""
    speed = statistics.median(map(tokens_per_s, mine))
    first = [record for record in all_records if record["side"] == all_records[0]["side"]]
    ratio = statistics.median(map(tokens_per_s, first)) / speed
    low, high = min(map(tokens_per_s, mine)), max(map(tokens_per_s, mine))
    return f"{speed:9.1f} tokens/s ({low:.1f} to {high:.1f} in {len(mine)} runs)   first / this: {ratio:.2f}x"
