"""How the KV cache and the attention plan lie on the device.

KV of one layer: [page, kv_head, 2, PAGE, head_dim], K first, both [slot][head_dim]. A page is one tile of keys, so a
tile needs one scalar page id. Slot number = page * PAGE + offset.

An item of the plan is eight int32: row_begin, row_count, page_begin, key_count, key_position, partial_begin, causal, 0.
Rows [row_begin, row_begin + row_count) attend to keys j < key_count of pages[page_begin + j // PAGE], key j being at
position key_position + j. Row r writes its partial to partial_begin + (r - row_begin). In a causal item a row sees no
key beyond its own position; such an item may list keys that are not written yet: a leaf that grows on the device.

Where partials of all rows would take too much memory, rows are divided into runs (see `runs`): partials are counted
from the first of their run, and the next run writes over them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from branchwise_kernels.runs import ITEM_FIELDS, ROW_BEGIN, ROW_COUNT, Ints, Runs, cut

PAGE = 64
RUN_FIELDS = 8  # rows of the plan, small items, large items, first row, end of rows: of each run
SMALL_TILE = 16  # query rows (rows x heads of the group) of the tile for items that few rows share
LARGE_TILE = 64  # of the tile for items that many rows share
WIDE_TILE = 128  # of the tile where nodes feed many rows each: prefill, and the PRM's new steps
MAX_ITEM_ROWS = 64  # rows of an item; the planner's limit
CHUNK_SLOTS = 512  # keys of an item; the planner's limit


def large_tile(head_dim: int, itemsize: int, append: bool) -> int:
    """Query rows of the tile for items of many queries; shared memory (100 KiB) holds few of the largest heads'.

    fp32 has no matrix units: larger tiles would only spill.
    """
    if itemsize > 2:
        return SMALL_TILE
    if head_dim > 128:
        return LARGE_TILE // 2
    return WIDE_TILE if append and head_dim <= 64 else LARGE_TILE  # of 128 dimensions it would spill on sm_80


def registers(head_dim: int) -> int | None:
    """Registers of a thread in attention at most: left alone, ptxas spills some to fit one more block on a processor.

    The largest heads fill no processor with blocks, and do better without the limit.
    """
    return 255 if head_dim <= 128 else None


def shared_bytes(head_dim: int, itemsize: int) -> int:
    """Shared memory that the smallest tile needs, at least: queries, a page of keys and of values, scores."""
    block_d = 1 << max(4, (head_dim - 1).bit_length())
    return (SMALL_TILE + 2 * PAGE) * block_d * itemsize + SMALL_TILE * PAGE * 4


def appends(host: Any) -> bool:
    """Whether some node of a host plan feeds several rows; a decode iteration feeds one each."""
    return bool(host.n_rows > len(host.order))


@dataclass(frozen=True)
class DevicePlan:
    """Everything attention needs, int32, capacities fixed; what lies beyond `counts` is not read.

    positions, slots [rows]
    items [runs, max_small + max_large, 8]: small ones first, large ones from max_small on
    pages [n]    row_partial_begin [rows + 1], row_partials [n]: partials of each row, root to leaf
    row_items [n]: the items that write them    counts [runs, 8]: see RUN_FIELDS
    run_partials, run_rows: the most that a run may have    tiles: query tiles of LARGE_TILE in the largest item
    append: see `appends`
    """

    positions: Tensor
    slots: Tensor
    items: Tensor
    pages: Tensor
    row_partial_begin: Tensor
    row_partials: Tensor
    row_items: Tensor
    counts: Tensor
    run_partials: int
    run_rows: int
    max_small: int
    max_large: int
    tiles: int
    append: bool


@dataclass(frozen=True)
class PlanSize:
    """Capacities of a plan, and what else its launches are chosen by; run_rows, small, large, partials: of a run."""

    rows: int
    run_rows: int
    small: int
    large: int
    pages: int
    partials: int
    tiles: int
    append: bool = False
    runs: int = 1

    @classmethod
    def for_rows(cls, rows: int, partials: int, group: int, pages: int, runs: int = 1) -> PlanSize:
        """Room for any plan of so many decode rows and runs; a program without an item costs nothing much."""
        most = min(rows, MAX_ITEM_ROWS) * group  # queries of an item
        large = partials * group // SMALL_TILE if most > SMALL_TILE else 0
        return cls(rows, rows, partials, large, pages, partials, -(-most // LARGE_TILE), runs=runs)


def size_of(host: Any, group: int, runs: Runs | None = None) -> PlanSize:
    """What a host plan (the C++ `AttentionPlan`) needs, in one run unless cut; group: query heads of a kv head."""
    runs = cut(host) if runs is None else runs
    queries = runs.items[:, ROW_COUNT] * group
    small = np.add.reduceat(queries <= SMALL_TILE, runs.item_begin[:-1], dtype=int)
    return PlanSize(
        rows=host.n_rows,
        run_rows=int(np.diff(runs.row_begin).max()),
        small=int(small.max()),
        large=int((np.diff(runs.item_begin) - small).max()),
        pages=len(host.block_ids),
        partials=int(np.diff(np.asarray(host.row_partial_begin)[runs.row_begin]).max()),
        tiles=-(-int(queries.max()) // LARGE_TILE),
        append=appends(host),
        runs=len(runs),
    )


def empty_plan(size: PlanSize, device: torch.device) -> DevicePlan:
    """Buffers for plans up to a size."""

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int32, device=device)

    return DevicePlan(
        positions=zeros(size.rows),
        slots=zeros(size.rows),
        items=zeros(size.runs, max(1, size.small + size.large), ITEM_FIELDS),
        pages=zeros(max(1, size.pages)),
        row_partial_begin=zeros(size.rows + 1),
        row_partials=zeros(max(1, size.runs * size.partials)),
        row_items=zeros(max(1, size.runs * size.partials)),
        counts=zeros(size.runs, RUN_FIELDS),
        run_partials=size.partials,
        run_rows=size.run_rows,
        max_small=size.small,
        max_large=size.large,
        tiles=size.tiles,
        append=size.append,
    )


@dataclass(frozen=True)
class Growth:
    """Of each row of a decode plan that covers slots ahead: position of its leaf's first key, slots to go back."""

    node_start: NDArray[np.int32]
    rewind: NDArray[np.int32]


def update(plan: DevicePlan, host: Any, group: int, growth: Growth | None = None) -> Ints | None:
    """Write a host plan into the buffers, in place; with `growth`, returns where each row's leaf pages begin.

    With growth each row begins to write `rewind` slots before the planned one, and the items of its leaf grow with it.
    """
    return _write(plan, host, cut(host, plan.run_partials), group, growth)


def plan_from(host: Any, group: int, device: torch.device, most: int | None = None) -> DevicePlan:
    """A plan in buffers that just hold it, in runs of at most so many partials."""
    runs = cut(host, most)
    plan = empty_plan(size_of(host, group, runs), device)
    _write(plan, host, runs, group)
    return plan


def _write(plan: DevicePlan, host: Any, runs: Runs, group: int, growth: Growth | None = None) -> Ints | None:
    positions, slots = np.array(host.positions), np.array(host.slots)
    items, page_begin = runs.items, None
    if growth is not None:
        page_begin = leaf_page_begin(host, runs, growth.node_start)
        positions = positions - growth.rewind
        offset = positions - growth.node_start
        slots = np.asarray(host.block_ids)[page_begin + offset // PAGE] * PAGE + offset % PAGE
        items[:, 6] |= items[:, 4] + items[:, 3] - 1 > positions[items[:, ROW_BEGIN]]
    counts, place = _placed(plan, host, runs, group)
    table = np.zeros((plan.items.shape[0] * plan.items.shape[1], ITEM_FIELDS), np.int32)
    table[place] = items
    begin = np.full(len(plan.row_partial_begin), host.n_partials, np.int32)  # rows beyond the plan have no partials
    begin[: host.n_rows + 1] = host.row_partial_begin
    _put(plan.positions, positions)
    _put(plan.slots, slots)
    _put(plan.items.view(table.shape), table)
    _put(plan.pages, np.asarray(host.block_ids))
    _put(plan.row_partial_begin, begin)
    _put(plan.row_partials, runs.row_partials)
    _put(plan.row_items, place[runs.writers])
    _put(plan.counts, counts)
    return page_begin


def _placed(plan: DevicePlan, host: Any, runs: Runs, group: int) -> tuple[Ints, NDArray[np.int64]]:
    """What is counted of each run, [runs, 8], and the place of each item in the plan's table."""
    small = runs.items[:, ROW_COUNT] * group <= SMALL_TILE
    n_runs, n_items = plan.items.shape[:2]
    rows = len(plan.positions)
    counts = np.zeros((n_runs, RUN_FIELDS), np.int32)
    counts[:, 0], counts[:, 3:5] = host.n_rows, rows  # runs beyond the plan have no rows
    place = np.empty(len(small), np.int64)
    for run in range(len(runs)):
        part = slice(runs.item_begin[run], runs.item_begin[run + 1])
        few = small[part]
        place[part] = run * n_items + np.where(few, np.cumsum(few) - 1, plan.max_small + np.cumsum(~few) - 1)
        end = rows if run + 1 == len(runs) else runs.row_begin[run + 1]  # the last one has those beyond the plan, too
        counts[run, 1:5] = few.sum(), (~few).sum(), runs.row_begin[run], end
    return counts, place


def leaf_page_begin(host: Any, runs: Runs, node_start: Ints) -> Ints:
    """[rows]: where the pages of each row's leaf begin in the plan's list; node_start: position of its first key.

    A row's last partial comes from the last item of its leaf, and the pages of a node lie one behind the other.
    """
    last = runs.writers[np.asarray(host.row_partial_begin)[1:] - 1]
    begin: Ints = runs.items[last, 2] - (runs.items[last, 4] - node_start) // PAGE
    return begin


def _put(target: Tensor, values: NDArray[Any]) -> None:
    target[: len(values)].copy_(torch.from_numpy(np.array(values, np.int32)), non_blocking=True)
