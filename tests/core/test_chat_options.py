"""What users may tell a chat template: a date and variables."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from branchwise.chat_options import DATE, ChatOptions, parse_variables
from branchwise.config import EngineConfig
from branchwise.errors import ConfigError


def test_dates() -> None:
    assert ChatOptions().date == ChatOptions.make(None, None).date == DATE == "2024-07-26"
    assert not ChatOptions.make(None, None).extra
    made = ChatOptions.make("2026-05-09", {"x": [1]})
    assert made.date == "2026-05-09"
    assert made.extra == {"date_string": "09 May 2026", "x": [1]}
    assert ChatOptions.make("2026-05-09", {"date_string": "May"}).extra == {"date_string": "May"}
    before = datetime.date.today()
    assert ChatOptions.make("today", None).date in {day.isoformat() for day in (before, datetime.date.today())}


@pytest.mark.parametrize(
    "date", ["tomorrow", "", "2026-13-01", "2026-02-30", "20260101", "2026-W01-1", 5, "2026-11-30 "]
)
def test_dates_that_cannot_work(date: Any) -> None:
    with pytest.raises(ConfigError, match="expected a day such as '2026-11-30', or 'today'"):
        EngineConfig(date=date)


def test_variables_are_copied() -> None:
    given = {"effort": "high", "tools_in": [{"a": None}], "n": 3, "share": 0.5, "thinking": False, "pair": (1, 2)}
    made = ChatOptions.make(None, given).variables
    assert made == {**given, "pair": [1, 2]}
    given["tools_in"].append(1)
    assert made["tools_in"] == [{"a": None}]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"messages": []}, "'messages' is not free: it is set by the question and the instruction"),
        ({"add_generation_prompt": True}, "not free: it is set by whether the last message"),
        ({"tools": []}, "'tools' is not free"),
        ({"strftime_now": "x"}, "not free: it is set by the option date"),
        ({"two words": 1}, "'two words' is no name"),
        ({"_x": 1}, "'_x' is no name"),
        ({1: 1}, "1 is no name"),
        ({"x": object()}, "cannot be given to a template .*expected text, numbers"),
        ({"x": {1, 2}}, "cannot be given"),
        ({"x": float("nan")}, "cannot be given"),
        ({"x": "\ud800"}, "cannot be given"),
        ({"x": 10**5000}, "cannot be given"),
        ([("x", 1)], "is a list, expected names with values"),
        ("x=1", "is a str, expected names with values"),
    ],
)
def test_variables_that_cannot_work(variables: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EngineConfig(chat_template_kwargs=variables)


def test_a_list_within_itself() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ConfigError, match="cannot be given"):
        EngineConfig(chat_template_kwargs={"x": endless})


def test_variables_of_the_command_line() -> None:
    given = ["enable_thinking=false", "reasoning_effort=high", "n=3", 'parts=["a"]', "empty=", "equals=a=b", "q='x'"]
    assert parse_variables(given) == {
        "enable_thinking": False,
        "reasoning_effort": "high",
        "n": 3,
        "parts": ["a"],
        "empty": "",
        "equals": "a=b",
        "q": "'x'",
    }
    for bad, message in (
        (["enable_thinking"], "expected NAME=VALUE"),
        (["x=1", "x=2"], "x is given twice"),
        (["enable_thinking=False"], "JSON, which writes true, false and null"),
        (["x=None"], "as text, write x='\"None\"'"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_variables(bad)
    assert parse_variables(["deep=" + "[" * 100_000]) == {"deep": "[" * 100_000}
