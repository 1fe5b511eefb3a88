"""Every limit has words, and an option that lifts it."""

from __future__ import annotations

from typing import get_args

from branchwise.report.cuts import cut_lines
from branchwise.types import Cut


def test_a_line_for_each_limit_the_most_frequent_first():
    assert cut_lines({}) == []
    assert cut_lines({"steps": 1, "tokens": 2000}) == [
        "2,000 branches were cut by the tokens of a solution: raise --max-tokens",
        "1 branch was cut by the number of steps: raise --max-steps",
    ]
    assert len(cut_lines(dict.fromkeys(get_args(Cut), 1))) == len(get_args(Cut))
