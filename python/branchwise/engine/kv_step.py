"""A step in a KV cache: how much of it is there, and what has still to be fed.

The KV of a step may be dropped while its tokens are kept, and be fed again, step by step from the root. A row's bits
depend on its path alone, so nobody can tell afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from branchwise.engine.kv import KvCache, Lease
from branchwise.engine.prefixes import Match

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(slots=True, eq=False)
class KvStep:
    """What a cache knows of a step: a prompt, or what comes below it.

    Where a step has a KV node, all steps before it are whole: every token of theirs is in the KV.
    """

    parent: Self | None
    tokens: list[int]  # of this step; grows while it is written
    start: int  # tokens before it on its path
    handle: int | None = field(default=None, kw_only=True)  # KV node, where any of it is in the KV
    fed: int = field(default=0, kw_only=True)  # tokens that are in the KV
    most_fed: int = field(default=0, kw_only=True)  # that had been there before they were dropped
    holders: int = field(default=1, kw_only=True)  # its owner, and every step below it that is kept

    @property
    def end(self) -> int:
        """Tokens on the path, this step's included."""
        return self.start + len(self.tokens)

    @property
    def missing(self) -> int:
        """Tokens that are not in the KV."""
        return len(self.tokens) - self.fed

    def upcoming(self, count: int) -> list[int]:
        """The first `count` tokens that are missing."""
        return self.tokens[self.fed : self.fed + count]

    def open(self, cache: KvCache) -> int:
        """Its KV node, made where there is none; all steps before it must be whole."""
        if self.handle is None:
            if self.parent is None:
                self.handle = cache.tree.add_root()
            else:
                assert self.parent.handle is not None
                (self.handle,) = cache.tree.fork(self.parent.handle, 1)
        return self.handle

    def start_from(self, match: Match, lease: Lease) -> None:
        """Have what is kept of its tokens, or of a root's first ones, instead of feeding them."""
        if match.handle is None:
            return
        if match.length == len(self.tokens):
            lease.cache.tree.hold(match.handle)
            self.handle = match.handle
        else:
            (self.handle,) = lease.cache.tree.fork(match.handle, 1)
        self.fed = match.length
        self.most_fed = max(self.most_fed, self.fed)
        lease.resize(0, self.fed)

    def feed(self, count: int, lease: Lease) -> int:
        """So many more of its tokens, or fewer, are in the KV; returns how many of them had been there and dropped."""
        begin, end, most = self.fed, self.fed + count, self.most_fed
        self.fed = end
        lease.resize(begin, end)
        if count <= 0 or end > most:
            self.most_fed = end
        return max(0, min(end, most) - begin) if begin < most else 0

    def drop(self, lease: Lease) -> bool:
        """Free its KV, and say if there was any; nothing below it may have some."""
        held = self.fed
        if self.handle is not None:
            lease.cache.tree.prune(self.handle)
            lease.resize(held, 0)
            self.handle, self.fed = None, 0
        return held > 0

    def let_go(self, lease: Lease) -> list[Self]:
        """One holder less, upwards while nobody needs a step, which frees its KV; returns the steps that are gone."""
        gone: list[Self] = []
        step = self
        while True:
            step.holders -= 1
            if step.holders:
                return gone
            step.drop(lease)
            gone.append(step)
            if step.parent is None:
                return gone
            step = step.parent


StepT = TypeVar("StepT", bound=KvStep)


def next_to_feed(step: StepT) -> StepT:
    """The first step on a path, this one at last, of which something is missing in the KV."""
    while step.handle is None and step.parent is not None and step.parent.missing:
        step = step.parent
    return step


def shed(steps: Iterable[KvStep], wanted: Iterable[KvStep], lease: Lease) -> bool:
    """Free the KV of steps and of those before them, but not of the wanted ones' paths; False: there was none."""
    keep = _paths(wanted)
    idle = [step for step in _paths(steps) if step not in keep]
    return sum(step.drop(lease) for step in sorted(idle, key=lambda step: -step.start)) > 0


def _paths(steps: Iterable[KvStep]) -> dict[KvStep, None]:
    """The steps, and all before them."""
    found: dict[KvStep, None] = {}
    for last in steps:
        step: KvStep | None = last
        while step is not None and step not in found:
            found[step] = None
            step = step.parent
    return found
