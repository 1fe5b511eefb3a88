"""Runs of rows whose partials fit into bounded memory: attention takes one run after the other.

Where a run ends, items are cut. What a row reads and writes stays the same, in the same order, and so does its result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
ITEM_FIELDS = 8
ROW_BEGIN, ROW_COUNT, KEY_COUNT, PARTIAL_BEGIN = 0, 1, 3, 5  # columns of an item


@dataclass(frozen=True)
class Runs:
    """A host plan's items, run after run.

    row_begin [runs + 1]: run i has the rows [row_begin[i], row_begin[i + 1])    item_begin [runs + 1]: likewise
    items [n, 8]: as `layout` has them, partials counted from the first of their run
    row_partials [n_partials]: of each row, root to leaf    writers [n_partials]: the items behind them
    """

    row_begin: NDArray[np.int64]
    item_begin: NDArray[np.int64]
    items: Ints
    row_partials: Ints
    writers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row_begin) - 1


def row_runs(host: Any, most: int | None = None) -> NDArray[np.int64]:
    """[runs + 1] where runs begin, and the last one ends: as many rows each as `most` partials allow, at least one."""
    begin = np.asarray(host.row_partial_begin)
    found = [0]
    while most is not None and begin[-1] - begin[found[-1]] > most:
        fits = int(np.searchsorted(begin, begin[found[-1]] + most, "right")) - 1
        found.append(max(fits, found[-1] + 1))
    if found[-1] < host.n_rows or len(found) == 1:
        found.append(host.n_rows)
    return np.array(found)


def cut_items(host: Any, row_begin: NDArray[np.int64]) -> tuple[Ints, NDArray[np.int64]]:
    """Items of a host plan, those of the first run first, and [runs + 1] where each run's begin."""
    items = _item_rows(host)
    if len(row_begin) == 2:
        return items, np.array([0, len(items)])
    begin, end = items[:, ROW_BEGIN], items[:, ROW_BEGIN] + items[:, ROW_COUNT]
    first, last = (np.searchsorted(row_begin, row, "right") - 1 for row in (begin, end - 1))
    pieces = last - first + 1
    of = np.repeat(np.arange(len(items)), pieces)
    run = first[of] + _counted(pieces)
    order = np.argsort(run, kind="stable")
    of, run = of[order], run[order]
    cut = items[of]
    cut[:, ROW_BEGIN] = np.maximum(begin[of], row_begin[run])
    cut[:, ROW_COUNT] = np.minimum(end[of], row_begin[run + 1]) - cut[:, ROW_BEGIN]
    cut[:, PARTIAL_BEGIN] += cut[:, ROW_BEGIN] - begin[of]
    return cut, np.searchsorted(run, np.arange(len(row_begin)))


def cut(host: Any, most: int | None = None) -> Runs:
    """A host plan (the C++ `AttentionPlan`) in runs of at most so many partials."""
    row_begin = row_runs(host, most)
    items, item_begin = cut_items(host, row_begin)
    count = items[:, ROW_COUNT]
    place = np.empty(host.n_partials, np.int64)  # of the host plan's partials, run after run
    place[np.repeat(items[:, PARTIAL_BEGIN], count) + _counted(count)] = np.arange(host.n_partials)
    row_partials = place[np.asarray(host.row_partials)]
    writers = np.repeat(np.arange(len(items)), count)[row_partials]
    partial_begin = np.asarray(host.row_partial_begin)[row_begin]  # a run's rows have the run's partials
    rows = np.diff(partial_begin)
    items[:, PARTIAL_BEGIN] = np.cumsum(count) - count - np.repeat(partial_begin[:-1], np.diff(item_begin))
    row_partials -= np.repeat(partial_begin[:-1], rows)
    return Runs(row_begin, item_begin, items, row_partials.astype(np.int32), writers)


def _item_rows(host: Any) -> Ints:
    """Items of a host plan as rows of eight int32."""
    records = host.items
    rows = np.zeros((len(records), ITEM_FIELDS), np.int32)
    rows[:, ROW_BEGIN] = records["row_begin"]
    rows[:, ROW_COUNT] = records["row_end"] - records["row_begin"]
    for column, name in ((2, "block_begin"), (3, "key_count"), (4, "key_position"), (5, "partial_begin")):
        rows[:, column] = records[name]
    rows[:, 6] = records["causal"]
    return rows


def _counted(counts: NDArray[Any]) -> NDArray[np.int64]:
    """0, 1, ... of each count, one behind the other."""
    begin = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) - np.repeat(begin, counts)
