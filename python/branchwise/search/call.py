"""One call for many things, of which equal ones are one ticket."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from branchwise.search.ticket import Ticket

Value = TypeVar("Value")


class Call(Generic[Value]):
    """The tickets of a call; each has results for the places of the call that it stands for."""

    def __init__(self, tickets: Iterable[Ticket[list[Value]]], places: Iterable[Sequence[int]]) -> None:
        self.tickets = list(tickets)
        self._places = list(places)

    def in_order(self, results: Sequence[list[Value]]) -> list[Value]:
        """Results of the tickets as those of the places."""
        pairs = zip(self._places, results, strict=True)
        found = {place: each for places, group in pairs for place, each in zip(places, group, strict=True)}
        return [found[place] for place in range(len(found))]


def places_of(keys: Iterable[Hashable]) -> list[list[int]]:
    """Where each key stands, in order of its first place."""
    found: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault(key, []).append(place)
    return list(found.values())
