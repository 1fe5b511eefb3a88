"""ReadAhead gives what reading in place would, in any order, and keeps its bounds."""

from __future__ import annotations

import threading
import time

import pytest

from branchwise.weights.read_ahead import ReadAhead


def test_values_come_in_any_order_and_are_read_once() -> None:
    read: list[int] = []

    def square(key: int) -> int:
        read.append(key)
        return key * key

    order = [3, 0, 1, 7, 2, 4, 99, 6, 5]
    with ReadAhead(square, range(8), ahead=2) as values:
        assert [values(key) for key in order] == [key * key for key in order]
    assert sorted(read) == sorted(order)


def test_no_more_than_asked_for_are_held() -> None:
    done: list[int] = []
    with ReadAhead(done.append, range(100), ahead=3) as values:
        for key in range(5):
            values(key)
            time.sleep(0.01)
            assert len(done) <= key + 1 + 3
    assert len(done) <= 8


def test_threads_read_side_by_side() -> None:
    barrier = threading.Barrier(2, timeout=10)  # breaks unless two reads are under way at once
    with ReadAhead(lambda key: barrier.wait() >= 0, range(4), ahead=2) as values:
        assert all(values(key) for key in range(4))


def test_an_error_comes_out_where_its_key_is_asked_for() -> None:
    def fail_at_two(key: int) -> int:
        if key == 2:
            raise OSError("cannot read 2")
        return key

    with ReadAhead(fail_at_two, range(4), ahead=2) as values:
        assert values(0) == 0
        assert values(1) == 1
        with pytest.raises(OSError, match="cannot read 2"):
            values(2)
        assert values(3) == 3


def test_leaving_early_does_not_read_the_rest() -> None:
    done: list[int] = []

    def load() -> None:
        with ReadAhead(done.append, range(1000), ahead=2) as values:
            values(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load()
    assert len(done) <= 3
