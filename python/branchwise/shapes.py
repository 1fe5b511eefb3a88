"""Whether what was read from a file has the shape that type hints say: people edit files, and versions change them."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

_WORDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}
_LARGEST = 2**64  # as seeds are; Python reads whole numbers of any length
_LONGEST = 40  # characters of a value in a message

Fault = tuple[str, str]  # where it is, as ".cost.flops", and what is wrong there
Rule = Callable[[Any], Fault | None]


def misfit(value: object, hint: Any) -> str | None:
    """Where a value from JSON is no `hint`, in words, as 'cost.flops is "x", expected a number'; None: it fits.

    hint: a type of JSON's, Any, Literal, a union, Sequence, Mapping, list, dict or tuple of hints, a TypedDict (which
    may hold more than it says), or a dataclass as `asdict` writes it; Annotated[T, D]: a T to type checkers, a D here.
    Numbers are finite.
    """
    fault = _rule(hint)(value)
    return None if fault is None else f"{fault[0].removeprefix('.') or 'it'} {fault[1]}"


@cache
def _rule(hint: Any) -> Rule:
    """What finds the first fault of a value."""
    if hint is Any:
        return lambda _: None
    if hint in _WORDS:
        return _plain(hint)
    if dataclasses.is_dataclass(hint) or is_typeddict(hint):
        return _object(hint)
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _rule(inner[1])
    if origin is Literal:
        return lambda value: None if value in inner else _said(value, f"one of {', '.join(map(str, inner))}")
    if origin in (Union, types.UnionType):
        return _one_of(inner)
    if origin is tuple:
        return _tuple([_rule(each) for each in inner])
    if origin in (list, Sequence):
        return _list(inner[0])
    if origin in (dict, Mapping):
        return _mapping(*map(_rule, inner))
    raise TypeError(f"no shape of JSON: {hint}")


def _plain(hint: type) -> Rule:
    def rule(value: Any) -> Fault | None:
        kind: type = type(value)
        fits = kind is hint or (kind is int and hint is float)
        if fits and kind in (int, float):
            fits = abs(value) <= _LARGEST if kind is int else math.isfinite(value)
        return None if fits else _said(value, _WORDS[hint])

    return rule


def _one_of(hints: Sequence[Any]) -> Rule:
    rules = [_rule(hint) for hint in hints if hint is not type(None)]
    or_null = len(rules) < len(hints)

    def rule(value: Any) -> Fault | None:
        if value is None and or_null:
            return None
        faults = [rule(value) for rule in rules]
        if None in faults:
            return None
        return faults[0] if len(faults) == 1 else _said(value, "something else")

    return rule


def _list(hint: Any) -> Rule:
    inner = _rule(hint)

    def rule(value: Any) -> Fault | None:
        if not isinstance(value, list):
            return _said(value, "a list")
        if hint in (int, str) and set(map(type, value)) <= {hint}:
            return None  # long lists of tokens
        return next((_at(f"[{i}]", fault) for i, each in enumerate(value) if (fault := inner(each))), None)

    return rule


def _tuple(rules: Sequence[Rule]) -> Rule:
    def rule(value: Any) -> Fault | None:
        if not isinstance(value, list) or len(value) != len(rules):
            return _said(value, f"a list of {len(rules)}")
        pairs = enumerate(zip(rules, value, strict=True))
        return next((_at(f"[{i}]", fault) for i, (inner, each) in pairs if (fault := inner(each))), None)

    return rule


def _mapping(of_keys: Rule, of_values: Rule) -> Rule:
    def rule(value: Any) -> Fault | None:
        if not isinstance(value, dict):
            return _said(value, "an object")
        for key, each in value.items():
            if fault := of_keys(key):
                return "", f"has a key that {fault[1]}"
            if fault := of_values(each):
                return _at(f".{key}", fault)
        return None

    return rule


def _object(hint: Any) -> Rule:
    hints = get_type_hints(hint, include_extras=True)
    is_open = is_typeddict(hint)
    names = list(hints) if is_open else [field.name for field in dataclasses.fields(hint)]
    rules = {name: _rule(hints[name]) for name in names}
    needed = [name for name in names if not is_open or name in hint.__required_keys__]

    def rule(value: Any) -> Fault | None:
        if not isinstance(value, dict):
            return _said(value, "an object")
        for name in needed:
            if name not in value:
                return f".{name}", "is missing"
        for name, each in value.items():
            if name in rules:
                if fault := rules[name](each):
                    return _at(f".{name}", fault)
            elif not is_open:
                return f".{name}", "is unknown"
        return None

    return rule


def _at(place: str, fault: Fault) -> Fault:
    return place + fault[0], fault[1]


def _said(value: object, expected: str) -> Fault:
    text = json.dumps(value, ensure_ascii=False)
    return "", f"is {text if len(text) <= _LONGEST else text[:_LONGEST] + ' ...'}, expected {expected}"
