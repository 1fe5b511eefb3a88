"""Checks of strategy options: every refusal names a value that would work."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral, Real

from branchwise.confidence import MOST_TOP
from branchwise.config import is_number
from branchwise.errors import ConfigError


def check_count(owner: str, name: str, value: object) -> None:
    """Raise ConfigError unless `value` is a whole number of at least 1."""
    check_whole(owner, name, value, 1)


def check_whole(owner: str, name: str, value: object, least: int) -> None:
    """Raise ConfigError unless `value` is a whole number of at least `least`."""
    if not is_number(Integral, value) or value < least:  # type: ignore[operator]
        raise ConfigError(f"{owner}: {name} is {value!r}, expected a whole number of at least {least}")


def check_number(owner: str, name: str, value: object, low: float, high: float, *, positive: bool = False) -> None:
    """Raise ConfigError unless `value` is a number from `low` to `high`; `positive`: not `low` itself."""
    works = is_number(Real, value) and low <= value <= high and not (positive and value == low)  # type: ignore[operator]
    if not works:
        begin = f"more than {low:g}" if positive else f"{low:g}"
        raise ConfigError(f"{owner}: {name} is {value!r}, expected {begin} to {high:g}")


def check_limit(owner: str, name: str, value: object) -> None:
    """As `check_count`; None is no limit."""
    if value is not None:
        check_count(owner, name, value)


def check_confidence(owner: str, window: object, top: object) -> None:
    """Raise ConfigError unless groups can have so many tokens, and confidence look at so many likeliest words."""
    check_count(owner, "window", window)
    check_count(owner, "top", top)
    check_number(owner, "top", top, 1, MOST_TOP)


def check_choice(owner: str, name: str, value: object, choices: Iterable[str]) -> None:
    """Raise ConfigError unless `value` is one of `choices`."""
    known = list(choices)
    if value not in known:
        raise ConfigError(f"{owner}: {name} is {value!r}, expected one of {', '.join(known)}{nearest(value, known)}")


def check_groups(owner: str, n: int, expand: int) -> None:
    """Raise ConfigError unless `n` branches are a whole number of groups of `expand`."""
    check_count(owner, "n", n)
    check_count(owner, "expand", expand)
    if n < expand:
        raise ConfigError(f"{owner}: n={n} is less than expand={expand}: use n={expand}, or expand={n}")
    if n % expand:
        below = n - n % expand
        raise ConfigError(f"{owner}: n={n} is no multiple of expand={expand}: use n={below} or n={below + expand}")


def nearest(given: object, known: Iterable[str]) -> str:
    """A hint at the known name most like the given one, or nothing."""
    matches = get_close_matches(str(given).lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""
