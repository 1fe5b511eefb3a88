"""Checks of strategy options: every refusal names a value that would work."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral

from branchwise.config import is_number
from branchwise.errors import ConfigError


def check_count(owner: str, name: str, value: object) -> None:
    """Raise ConfigError unless `value` is a whole number of at least 1."""
    if not is_number(Integral, value) or value < 1:  # type: ignore[operator]
        raise ConfigError(f"{owner}: {name} is {value!r}, expected a whole number of at least 1")


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
