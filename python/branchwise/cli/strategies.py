"""Strategies as the command line names them, with options that are typed as each of them has it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from branchwise.cli.from_file import load, names_file
from branchwise.errors import BranchwiseError, ConfigError
from branchwise.strategies.options import nearest
from branchwise.strategies.protocol import Strategy
from branchwise.strategies.registry import STRATEGIES, check_strategy, make_strategy

FLAGS = {"n": "-n", "expand": "--expand", "max_steps": "--max-steps", "aggregate": "--aggregate", "vote": "--vote"}
"""Options of strategies that have a flag of their own; all others are given with -O."""
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a strategy is made. types: of its options    source: digest of the file that it comes from"""

    given: str
    make: Any  # a class; or a strategy that is ready, without options
    types: Mapping[str, Any]
    source: str | None = None

    def options(self, flags: Mapping[str, object], texts: Mapping[str, str]) -> dict[str, object]:
        """What it takes of the options that were given."""
        made = {name: value for name, value in flags.items() if name in self.types}
        return made | {name: _typed(name, text, self.types[name]) for name, text in texts.items() if name in self.types}

    def strategy(self, options: Mapping[str, object]) -> Strategy:
        """Made with these options. ConfigError: they cannot work, or it is no strategy."""
        if self.source is None:
            return make_strategy(self.make.name, **options)
        if not isinstance(self.make, type):
            check_strategy(self.make)
            return self.make  # type: ignore[no-any-return]
        try:
            made = self.make(**options)
        except BranchwiseError:
            raise
        except Exception as error:
            call = f"{self.make.__name__}({', '.join(f'{name}={value!r}' for name, value in options.items())})"
            raise ConfigError(f"--strategy {self.given}: {call} raised {type(error).__name__}: {error}") from error
        check_strategy(made)
        return made  # type: ignore[no-any-return]


def recipe(given: str) -> Recipe:
    """The strategy of a name, or of a place in a file. ConfigError: there is none."""
    if not names_file(given):
        strategy = type(make_strategy(given))  # refuses names that are unknown
        return Recipe(given, strategy, option_types(strategy))
    made, source = load(given, "--strategy", "my.py:MyStrategy")
    return Recipe(given, made, option_types(made) if isinstance(made, type) else {}, source)


def option_types(strategy: type) -> dict[str, Any]:
    """The options of a strategy's class, in order, with their types; `Any` where nothing says which."""
    hints, parameters = _hints(strategy.__init__), inspect.signature(strategy).parameters  # type: ignore[misc]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: hints.get(name, _kind(each.default)) for name, each in parameters.items() if each.kind in named}


def split_options(given: Sequence[str]) -> dict[str, str]:
    """ "lookahead=2" by name. ConfigError: it is no NAME=VALUE, was given before, or has a flag of its own."""
    texts: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise ConfigError(f"-O {text}: write NAME=VALUE, as in -O lookahead=2")
        if name in FLAGS:
            raise ConfigError(f"-O {text}: {name} has a flag of its own, {FLAGS[name]} {value}")
        if name in texts:
            raise ConfigError(f"-O {text}: {name} was given before, as {texts[name]}")
        texts[name] = value.strip()
    return texts


def check_known(recipes: Sequence[Recipe], options: Mapping[str, object]) -> None:
    """Raise ConfigError for an option that none of the strategies has."""
    for name in options:
        if any(name in each.types for each in recipes):
            continue
        if len(recipes) == 1:
            types = recipes[0].types
            has = f"it has {', '.join(types)}" if types else "it is ready as it is"
            raise ConfigError(f"strategy {recipes[0].given!r} has no option {name!r}: {has}{nearest(name, types)}")
        valid = dict.fromkeys(option for each in recipes for option in each.types)
        names = ", ".join(each.given for each in recipes)
        raise ConfigError(f"none of {names} has an option {name!r}: they have {', '.join(valid)}{nearest(name, valid)}")


def options_of(strategy: Any, given: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Any]]:
    """All options of a strategy, and those that differ from their defaults. given: those that it was made with."""
    known = [each for each in fields(strategy) if each.init] if is_dataclass(strategy) else []
    values = {each.name: getattr(strategy, each.name) for each in known}
    others = {name: value for name, value in given.items() if name not in values}
    unusual = {each.name: values[each.name] for each in known if values[each.name] != _default(each)}
    return values | others, unusual | others


def strategy_rows() -> list[tuple[str, str, str, str]]:
    """Name, what it does, its n, and its options without a flag of their own: as the classes say."""
    rows = []
    for name, strategy in STRATEGIES.items():
        defaults = {each.name: str(_default(each)) for each in fields(strategy) if each.init}
        options = ", ".join(f"{option}={value}" for option, value in defaults.items() if option not in FLAGS)
        rows.append((name, first_sentence(inspect.getdoc(strategy) or ""), defaults.get("n", ""), options))
    return rows


def first_sentence(text: str) -> str:
    """Up to the first full stop, or the end of the paragraph."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return paragraph.split(". ")[0].rstrip(".:")


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _hints(owner: Any) -> dict[str, Any]:
    try:
        return get_type_hints(owner)
    except Exception:  # of names that a user's annotations use and do not define: then values say what they are
        return {}


def _kind(default: object) -> Any:
    return type(default) if isinstance(default, bool | int | float | str) else Any


def _typed(name: str, text: str, kind: Any) -> object:
    """The value of an option. ConfigError: it is none of its type."""
    if get_origin(kind) in (Union, UnionType):
        if NoneType in get_args(kind) and text.lower() == "none":
            return None
        return _typed(name, text, next((each for each in get_args(kind) if each is not NoneType), Any))
    if kind is str or get_origin(kind) is Literal:
        return text
    expected = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind)
    try:
        if kind is bool:
            return _WORDS[text.lower()]
        if expected is not None:
            return kind(text)
        return ast.literal_eval(text)
    except (ValueError, KeyError, SyntaxError):
        if expected is None:
            return text
        raise ConfigError(f"-O {name}={text}: expected {expected}") from None
