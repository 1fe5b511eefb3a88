"""What fits a shape, what does not, and where: whatever somebody made of a file is said, and never half taken."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwise.shapes import misfit


@dataclass
class Point:
    x: int
    y: float = 0.0


class Needed(TypedDict):
    name: str
    at: Annotated[dict[str, Any], Point] | None


class Whole(Needed, total=False):
    tags: list[str]


@pytest.mark.parametrize(
    ("value", "hint", "words"),
    [
        ("a", str, None),
        (1, str, "it is 1, expected a text"),
        (True, int, "it is true, expected a whole number"),
        (1, float, None),
        (1.5, int, "it is 1.5, expected a whole number"),
        (math.nan, float, "it is NaN, expected a number"),
        (10**400, float, "expected a number"),
        (0, bool, "it is 0, expected true or false"),
        (None, str | None, None),
        (3, str | None, "it is 3, expected a text"),
        (3, str | bool, "it is 3, expected something else"),
        ("b", Literal["a", "b"], None),
        ("c", Literal["a", "b"], "it is \"c\", expected one of a, b"),
        ([1, 2, "x"], list[int], r"\[2\] is \"x\", expected a whole number"),
        ("ab", list[str], "it is \"ab\", expected a list"),
        (["a", 1], tuple[str, float], None),
        (["a"], tuple[str, float], "expected a list of 2"),
        ({"a": "b"}, Mapping[Literal["a"], int], "^a is \"b\", expected a whole number"),
        ({"b": 1}, Mapping[Literal["a"], int], "it has a key that is \"b\", expected one of a"),
        ([[1], ["x"]], Sequence[list[int]], r"\[1\]\[0\] is \"x\""),
        ({"x": 1, "y": 2}, Point, None),
        ({"x": 1}, Point, "y is missing"),
        ({"x": 1, "y": 2, "z": 3}, Point, "z is unknown"),
        ({"name": "a", "at": None, "more": 1}, Whole, None),
        ({"name": "a"}, Whole, "at is missing"),
        ({"name": "a", "at": {"x": "1", "y": 2}}, Whole, "at.x is \"1\", expected a whole number"),
        ({"name": "a", "at": None, "tags": [1]}, Whole, r"tags\[0\] is 1, expected a text"),
        ([], Whole, r"it is \[\], expected an object"),
        (["long"] * 30, str, r"\.\.\., expected a text"),
        (object, Any, None),
    ],
)  # fmt: skip
def test_where_it_does_not_fit(value: object, hint: Any, words: str | None) -> None:
    found = misfit(value, hint)
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(words, found), found


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(json_values)
def test_what_fits_can_be_made(value: object) -> None:
    """A reference: what fits a dataclass is what its constructor and the types of its fields take."""
    fits = isinstance(value, dict) and value.keys() == {"x", "y"} and type(value["x"]) is int
    fits = fits and type(value["y"]) in (int, float)  # type: ignore[index]
    assert (misfit(value, Point) is None) == fits
