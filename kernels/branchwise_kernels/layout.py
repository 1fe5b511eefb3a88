"""How the KV cache and the attention plan lie on the device.

KV of one layer: [page, kv_head, 2, PAGE, head_dim], K first, both [slot][head_dim]. A page is one tile of keys, so a
tile needs one scalar page id. Slot number = page * PAGE + offset.

An item of the plan is eight int32: row_begin, row_count, page_begin, key_count, key_position, partial_begin, causal, 0.
Rows [row_begin, row_begin + row_count) attend to keys j < key_count of pages[page_begin + j // PAGE], key j being at
position key_position + j. Row r writes its partial to partial_begin + (r - row_begin). In a causal item a row sees no
key beyond its own position; such an item may list keys that are not written yet: a leaf that grows on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PAGE = 64
ITEM_FIELDS = 8
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

    positions, slots [rows]    items [max_small + max_large, 8]: small ones first, large ones from max_small on
    pages [n]    row_partial_begin [rows + 1], row_partials [n]: partials of each row, root to leaf
    row_items [n]: the items that write them
    counts [4]: rows, small items, large items, 0    tiles: query tiles of LARGE_TILE in the largest item
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
    max_small: int
    max_large: int
    tiles: int
    append: bool


@dataclass(frozen=True)
class PlanSize:
    """Capacities of a plan, and what else its launches are chosen by."""

    rows: int
    small: int
    large: int
    pages: int
    partials: int
    tiles: int
    append: bool = False

    @classmethod
    def for_rows(cls, rows: int, partials_per_row: int, group: int, pages: int) -> PlanSize:
        """Room for any plan of so many decode rows with so long paths; a program without an item costs nothing much."""
        partials = rows * partials_per_row
        most = min(rows, MAX_ITEM_ROWS) * group  # queries of an item
        large = partials * group // SMALL_TILE if most > SMALL_TILE else 0
        return cls(rows, partials, large, pages, partials, -(-most // LARGE_TILE))


def size_of(plan: Any, group: int) -> PlanSize:
    """What a host plan (the C++ `AttentionPlan`) needs; group: query heads of a kv head."""
    queries = _row_counts(plan) * group
    small = int((queries <= SMALL_TILE).sum())
    tiles = -(-int(queries.max(initial=1)) // LARGE_TILE)
    large = plan.n_items - small
    return PlanSize(plan.n_rows, small, large, len(plan.block_ids), plan.n_partials, tiles, appends(plan))


def empty_plan(size: PlanSize, device: torch.device) -> DevicePlan:
    """Buffers for plans up to a size."""

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int32, device=device)

    return DevicePlan(
        positions=zeros(size.rows),
        slots=zeros(size.rows),
        items=zeros(max(1, size.small + size.large), ITEM_FIELDS),
        pages=zeros(max(1, size.pages)),
        row_partial_begin=zeros(size.rows + 1),
        row_partials=zeros(max(1, size.partials)),
        row_items=zeros(max(1, size.partials)),
        counts=zeros(4),
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


def update(plan: DevicePlan, host: Any, group: int, growth: Growth | None = None) -> NDArray[np.int32] | None:
    """Write a host plan into the buffers, in place; with `growth`, returns where each row's leaf pages begin.

    With growth each row begins to write `rewind` slots before the planned one, and the items of its leaf grow with it.
    """
    positions, slots = np.array(host.positions), np.array(host.slots)
    items, writers = item_rows(host), partial_writers(host)
    page_begin = None
    if growth is not None:
        page_begin = leaf_page_begin(host, items, writers, growth.node_start)
        positions = positions - growth.rewind
        offset = positions - growth.node_start
        slots = np.asarray(host.block_ids)[page_begin + offset // PAGE] * PAGE + offset % PAGE
        items[:, 6] |= items[:, 4] + items[:, 3] - 1 > positions[items[:, 0]]
    small = items[:, 1] * group <= SMALL_TILE
    place = np.where(small, np.cumsum(small) - 1, plan.max_small + np.cumsum(~small) - 1)  # in the device's list
    begin = np.full(len(plan.row_partial_begin), host.n_partials, np.int32)  # rows beyond the plan have no partials
    begin[: host.n_rows + 1] = host.row_partial_begin
    _put(plan.positions, positions)
    _put(plan.slots, slots)
    _put(plan.items, items[small])
    _put(plan.items[plan.max_small :], items[~small])
    _put(plan.pages, np.asarray(host.block_ids))
    _put(plan.row_partial_begin, begin)
    _put(plan.row_partials, np.asarray(host.row_partials))
    _put(plan.row_items, place[writers])
    _put(plan.counts, np.array([host.n_rows, small.sum(), (~small).sum(), 0]))
    return page_begin


def plan_from(host: Any, group: int, device: torch.device) -> DevicePlan:
    """A plan in buffers that just hold it."""
    plan = empty_plan(size_of(host, group), device)
    update(plan, host, group)
    return plan


def item_rows(host: Any) -> NDArray[np.int32]:
    """Items of a host plan as rows of eight int32."""
    records = host.items
    rows = np.zeros((len(records), ITEM_FIELDS), np.int32)
    rows[:, 0] = records["row_begin"]
    rows[:, 1] = _row_counts(host)
    for column, name in ((2, "block_begin"), (3, "key_count"), (4, "key_position"), (5, "partial_begin")):
        rows[:, column] = records[name]
    rows[:, 6] = records["causal"]
    return rows


def partial_writers(host: Any) -> NDArray[np.int64]:
    """[n_partials]: the item behind each entry of a host plan's `row_partials`."""
    order = np.argsort(host.items["partial_begin"], kind="stable")
    writer = np.repeat(order, _row_counts(host)[order])  # of each partial: items write disjoint runs, without gaps
    return writer[np.asarray(host.row_partials)]


def leaf_page_begin(
    host: Any, items: NDArray[np.int32], writers: NDArray[np.int64], node_start: NDArray[np.int32]
) -> NDArray[np.int32]:
    """[rows]: where the pages of each row's leaf begin in the plan's list; node_start: position of its first key.

    A row's last partial comes from the last item of its leaf, and the pages of a node lie one behind the other.
    """
    last = writers[np.asarray(host.row_partial_begin)[1:] - 1]
    begin: NDArray[np.int32] = items[last, 2] - (items[last, 4] - node_start) // PAGE
    return begin


def _row_counts(host: Any) -> NDArray[np.int32]:
    counts: NDArray[np.int32] = host.items["row_end"] - host.items["row_begin"]
    return counts


def _put(target: Tensor, values: NDArray[np.int32]) -> None:
    target[: len(values)].copy_(torch.from_numpy(np.array(values, np.int32)), non_blocking=True)
