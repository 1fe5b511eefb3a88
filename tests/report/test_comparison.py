"""Lines of a comparison: what is counted, timed and shared, as cells of a table and as JSON."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import records
from branchwise.report.comparison import Line, columns, quantile, total
from branchwise.report.lines import Lines


def record(id_: str, **more: Any) -> Any:
    return records.record(id_, cost={"generated_tokens": 1000, "prm_tokens": 10, "flops": 2e9, "seconds": 2.0}, **more)


def test_counts_costs_and_times():
    line = Line("beam", 4)
    for seed in (0, 1):
        line.add(record("a"), seed)
        line.add(record("b", correct=seed == 0, answer=None, cuts={"steps": 2}, equal=3), seed)
        line.add(record("c", correct=None, error="too long", answer=None), seed)
    made = line.as_dict()
    assert (made["results"], made["failed"], made["graded"], made["right"]) == (6, 2, 4, 3)
    assert (made["no_answer"], made["cut"], made["cuts"], made["equal"]) == (2, 2, {"steps": 4}, 6)
    assert (made["generated_tokens"], made["seconds"], made["latency_p50"]) == (6000, 6.0, 2.0)
    assert made["seeds"] == [0, 1]
    assert len(line.cells(equal=True)) == len(columns(equal=True)) == len(line.cells(equal=False)) + 1
    assert line.cells(equal=False)[:3] == ["beam", "4", "75.0 %"]


def test_what_was_shared_costs_nothing_more_and_has_no_time_of_its_own():
    source, taken = Line("best_of_n", 4), Line("majority", 4)
    source.add(record("a"), 0)
    taken.add(record("a", shared="best_of_n-n4-seed0", wall_seconds=None), 0)
    assert taken.seconds is taken.latency(0.5) is None
    assert taken.cells(equal=False)[-3:] == ["-"] * 3
    assert taken.as_dict()["generated_tokens"] == total([source, taken]).cost.generated_tokens == 1000
    assert taken.as_dict()["shared"] == {"best_of_n-n4-seed0": 1}


def test_nothing_graded_has_no_accuracy():
    line = Line("greedy", None)
    line.add(record("a", correct=None), 0)
    assert line.as_dict()["accuracy"] is None
    assert line.cells(equal=False)[:4] == ["greedy", "-", "-", "-"]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.floats(0, 1))
def test_quantiles_lie_between_the_values_they_part(values, share):
    found = quantile(values, share)
    assert min(values) <= found <= max(values)
    assert sum(value <= found + 1e-9 for value in values) >= share * (len(values) - 1)


def test_quantiles_of_known_values():
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile([0, 10], 0.95) == pytest.approx(9.5)


def test_records_in_memory_are_copies_in_order():
    lines = Lines([record("b"), record("a")])
    assert list(lines) == ["b", "a"]
    lines["a"]["answer"] = "changed"
    assert lines["a"] == record("a")
    assert "c" not in lines
    lines.put(record("b", answer="2"))
    assert lines["b"]["answer"] == "2"
