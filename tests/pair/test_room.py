"""Who begins, who is paused and who goes on, by what each holds and is expected to hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from branchwise.engine.kv import Lease
from branchwise.pair.room import SPARE, Room
from branchwise.pair.tree import PairTree
from branchwise.types import Node

BLOCKS = 160


@dataclass(eq=False)
class Cache:
    n_blocks: int = BLOCKS
    block_slots: int = 1
    share: float = 0.25
    learned: list[float] = field(default_factory=list)

    def learn(self, share: float) -> None:
        self.learned.append(share)


class Models:
    """A policy and a judge that note what is asked of them; trees hold blocks that can be shed, or not."""

    def __init__(self) -> None:
        self.caches: list[Any] = [Cache(), Cache()]
        self.idle: dict[Lease, int] = {}
        self.asked: list[tuple[str, int]] = []
        self.trees: list[PairTree] = []
        self.room = Room(*(self._model(kind) for kind in ("policy", "judge")))

    def _model(self, kind: str) -> Any:
        def shed(tree: Any) -> bool:
            idle = self.idle.pop(tree.lease, 0)
            tree.lease.resize(tree.lease.tokens, tree.lease.tokens - idle)
            self.asked += [(f"shed {kind}", tree.number)] if idle else []
            return idle > 0

        def pause(tree: Any) -> None:
            tree.lease.resize(tree.lease.tokens, 0)
            self.asked.append(("pause", tree.number))

        return SimpleNamespace(shed=shed, pause=pause, resume=lambda tree: self.asked.append(("resume", tree.number)))

    def tree(self, blocks: int = 0, *, longest: int = 100, idle: int = 0) -> PairTree:
        """A tree that holds so many blocks of both caches."""
        parts: list[Any] = [
            SimpleNamespace(lease=Lease(each, 0, longest), number=len(self.trees)) for each in self.caches
        ]
        for part in parts:
            part.leases = [part.lease]
            part.lease.resize(0, blocks)
            self.idle[part.lease] = idle
        policy, judge = parts
        self.trees.append(PairTree(policy, {Node(0, None, 0, 0, 0): judge}))
        return self.trees[-1]


@pytest.fixture
def models() -> Models:
    return Models()


def test_a_tree_begins_when_what_is_expected_of_it_fits(models: Models) -> None:
    running = [models.tree(blocks) for blocks in (0, 30, 70)]  # of the first one 25 are expected
    assert models.room.admits(models.tree(longest=140), running)
    assert not models.room.admits(models.tree(longest=144), running)
    models.caches[1].share = 0.3  # the judge's cache counts as well
    assert not models.room.admits(models.tree(longest=140), running)


def test_one_always_begins(models: Models) -> None:
    assert models.room.admits(models.tree(longest=10**6), [])


def test_paused_trees_go_on_oldest_first_when_there_is_room(models: Models) -> None:
    paused = [models.tree(40), models.tree(10)]
    for tree in paused:
        models.room.pause(tree)
        assert (tree.paused, tree.policy.lease.blocks) == (True, 0)
    models.asked.clear()
    spare = BLOCKS // SPARE
    models.room.resume(paused, [models.tree(BLOCKS - 40 - spare + 1)])  # the second one would fit
    assert models.asked == []
    models.room.resume(paused, [models.tree(BLOCKS - 40 - spare)])
    assert models.asked == [("resume", 0)]
    models.room.resume([paused[1]], [])
    assert models.asked == [("resume", 0), ("resume", 1)]


@pytest.mark.parametrize("of_judge", [False, True])
def test_what_costs_least_goes_first(models: Models, of_judge: bool) -> None:
    resting = [models.tree(20), models.tree(20, idle=5)]
    running = [models.tree(30, idle=9), models.tree(30), models.tree(30, idle=1)]
    kind = "shed judge" if of_judge else "shed policy"
    asked = []
    while models.room.make(resting, [tree for tree in running if not tree.paused], of_judge=of_judge):
        asked.append([each for each in models.asked if each[0] in ("pause", kind)])
        models.asked.clear()
    expected = [[(kind, 1)], [("pause", 4)], [("pause", 3)], [(kind, 2)]]
    if of_judge:
        expected[1].append((kind, 4))
    assert asked == expected
    assert not running[0].paused
    assert models.caches[0].learned == [90 / 300, 60 / 200]  # those that ran held more than was expected of them
