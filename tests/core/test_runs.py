"""Plans cut into runs of rows: what a row reads stays the same, and the partials of a run fit."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise._C import AttentionPlan, Planner
from branchwise_kernels.runs import Runs, cut, row_runs
from core.test_attention_plan import BLOCK, CHUNK, draw_queries, work_of_row, worlds


def work_in_run(plan: AttentionPlan, runs: Runs, run: int, row: int) -> list[tuple[int, list[int]]]:
    """As `work_of_row`, from the items of the row's run."""
    first = int(runs.item_begin[run])
    items = runs.items[first : runs.item_begin[run + 1]]
    work = []
    for entry in range(plan.row_partial_begin[row], plan.row_partial_begin[row + 1]):
        (found,) = np.flatnonzero((items[:, 5] <= runs.row_partials[entry]) & (items[:, 0] <= row)
                                  & (row < items[:, 0] + items[:, 1])
                                  & (items[:, 5] + row - items[:, 0] == runs.row_partials[entry]))  # fmt: skip
        assert runs.writers[entry] == first + found
        _, _, page_begin, key_count, key_position, _, causal, _ = items[found].tolist()
        visible = min(key_count, int(plan.positions[row]) - key_position + 1)
        assert causal or visible == key_count
        blocks = plan.block_ids[page_begin:]
        work.append((key_position, [int(blocks[key // BLOCK]) * BLOCK + key % BLOCK for key in range(visible)]))
    return work


@settings(max_examples=150, deadline=None)
@given(world=worlds(), data=st.data(), max_item_rows=st.integers(1, 9), most=st.integers(1, 40))
def test_every_row_has_the_same_work_in_the_same_order(world, data, max_item_rows, most):
    nodes, counts = draw_queries(data, world)
    plan = Planner(world.tree, CHUNK, max_item_rows).build(nodes, counts)
    runs = cut(plan, most)
    assert runs.row_begin[[0, -1]].tolist() == [0, plan.n_rows]
    assert runs.item_begin[[0, -1]].tolist() == [0, len(runs.items)]
    for run in range(len(runs)):
        rows = range(*runs.row_begin[run : run + 2])
        items = runs.items[slice(*runs.item_begin[run : run + 2])]
        used = [part for begin, count in items[:, [5, 1]].tolist() for part in range(begin, begin + count)]
        assert used == list(range(len(used)))  # each partial once, and no room between them
        assert len(used) <= most or len(rows) == 1
        for row in rows:
            assert work_in_run(plan, runs, run, row) == work_of_row(plan, row)


@settings(max_examples=50, deadline=None)
@given(world=worlds(), data=st.data())
def test_a_plan_that_fits_is_left_as_it_is(world, data):
    nodes, counts = draw_queries(data, world)
    plan = Planner(world.tree, CHUNK, 4).build(nodes, counts)
    runs = cut(plan, max(1, plan.n_partials))
    assert len(runs) == 1
    assert runs.row_partials.tolist() == plan.row_partials.tolist()
    for column, name in ((0, "row_begin"), (2, "block_begin"), (3, "key_count"), (5, "partial_begin"), (6, "causal")):
        assert runs.items[:, column].tolist() == plan.items[name].tolist()
    assert (runs.items[:, 0] + runs.items[:, 1]).tolist() == plan.items["row_end"].tolist()


@pytest.mark.parametrize(
    ("begin", "most", "runs"),
    [
        ([0, 2, 4, 6, 8], 4, [0, 2, 4]),
        ([0, 2, 4, 6, 8], 5, [0, 2, 4]),
        ([0, 2, 4, 6, 8], 1, [0, 1, 2, 3, 4]),  # a row alone may have more
        ([0, 1, 9, 10, 11], 4, [0, 1, 2, 4]),
        ([0, 2, 4], 4, [0, 2]),
        ([0, 2, 4], None, [0, 2]),
        ([0], 4, [0, 0]),
    ],
)
def test_runs_are_as_long_as_may_be(begin, most, runs):
    host = SimpleNamespace(row_partial_begin=np.array(begin), n_rows=len(begin) - 1)
    assert row_runs(host, most).tolist() == runs
