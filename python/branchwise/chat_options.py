"""What a chat template is given beside the messages: a date, and variables of its own."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from branchwise.errors import ConfigError

DATE = "2024-07-26"  # what the templates of Llama 3 print where nobody tells them the date
_RESERVED = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "strftime_now")
_GIVEN = {
    "messages": "the question and the instruction, or Problem.prompt",
    "add_generation_prompt": "whether the last message is the assistant's",
    "continue_final_message": "whether the last message is the assistant's",
    "strftime_now": "the option date",
}


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """date: as in 2026-11-30    dated: somebody asked for it    variables: by name, plain JSON values."""

    date: str = DATE
    dated: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def make(cls, date: str | None, variables: Mapping[str, Any] | None) -> ChatOptions:
        """Options as a user gives them; "today" is the day of this call. ConfigError for what cannot work."""
        return cls(_day(date), date is not None, _checked({} if variables is None else variables))

    @property
    def extra(self) -> dict[str, Any]:
        """The variables, and the date where templates look for one."""
        if not self.dated:
            return dict(self.variables)
        day = datetime.date.fromisoformat(self.date)
        words = f"{day.day:02} {day.ctime()[4:7]} {day.year:04}"  # strftime would speak the language of this process
        return {"date_string": words, **self.variables}


NO_OPTIONS = ChatOptions()


def parse_variables(given: list[str]) -> dict[str, Any]:
    """Variables of the command line: NAME=VALUE, the value as JSON where it is, else as text. ConfigError."""
    variables: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals:
            raise ConfigError(f"--template-var {each!r}: expected NAME=VALUE, such as enable_thinking=false")
        if value in ("True", "False", "None"):
            raise ConfigError(
                f"--template-var {each}: values are JSON, which writes true, false and null;"
                f" as text, write {name}='\"{value}\"'"
            )
        if name in variables:
            raise ConfigError(f"--template-var {name} is given twice: each variable has one value")
        try:
            variables[name] = json.loads(value)
        except (ValueError, RecursionError):
            variables[name] = value
    return variables


def _day(date: str | None) -> str:
    if date is None:
        return DATE
    if date == "today":
        return datetime.date.today().isoformat()
    try:
        if datetime.date.fromisoformat(date).isoformat() == date:
            return date
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"date={date!r}: expected a day such as '2026-11-30', or 'today'")


def _checked(variables: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of its own as plain JSON."""
    if not isinstance(variables, Mapping):
        raise ConfigError(
            f"chat_template_kwargs is a {type(variables).__name__}, expected names with values: "
            "{'enable_thinking': False}"
        )
    for name in variables:
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
            raise ConfigError(
                f"chat_template_kwargs: template variable {name!r} is no name: expected letters, digits and _ after a"
                " letter"
            )
        if name in _RESERVED:
            raise ConfigError(
                f"chat_template_kwargs: template variable {name!r} is not free: it is set by"
                f" {_GIVEN.get(name, 'branchwise, to nothing')}"
            )
    try:
        text = json.dumps(variables, allow_nan=False)
        json.dumps(variables, ensure_ascii=False).encode()  # refuses lone surrogates
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"chat_template_kwargs cannot be given to a template ({error}): expected text, numbers, true and false, "
            "None, and lists and dicts of them"
        ) from None
    copied: dict[str, Any] = json.loads(text)
    return copied
