"""The cache of prefixes against a slow search over all that the KV tree holds, and what users of its nodes read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from branchwise._C import KvTree, Planner
from branchwise.engine.prefixes import PrefixCache
from branchwise.errors import OutOfMemory

BLOCK, CHUNK = 4, 8
TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=4 * CHUNK)


class World:
    """A KV tree whose slots hold the tokens that were fed into them, and its cache."""

    def __init__(self, n_blocks: int = 1000) -> None:
        self.tree = KvTree(n_blocks, BLOCK)
        self.planner = Planner(self.tree, CHUNK)
        self.cache = PrefixCache(self.tree, CHUNK)
        self.memory: dict[int, int] = {}

    def tokens(self, node: int) -> list[int]:
        blocks = self.tree.blocks(node)
        return [self.memory[blocks[at // BLOCK] * BLOCK + at % BLOCK] for at in range(self.tree.length(node))]

    def path(self, node: int) -> list[int]:
        """The nodes from a root to this."""
        above = self.tree.parent(node)
        return [node] if above is None else [*self.path(above), node]

    def read(self, node: int) -> list[int]:
        """The tokens that a row behind a node attends to."""
        return [token for each in self.path(node) for token in self.tokens(each)]

    def work(self, node: int) -> list[tuple[int, int]]:
        """(position, keys) of the chunks in which a row behind a node attends to them."""
        items = self.planner.build([node], [1]).items
        return [(int(item["key_position"]), int(item["key_count"])) for item in items]

    def feed(self, node: int, tokens: list[int]) -> None:
        self.tree.append(node, len(tokens))
        blocks, begin = self.tree.blocks(node), self.tree.length(node) - len(tokens)
        for at, token in enumerate(tokens, begin):
            self.memory[blocks[at // BLOCK] * BLOCK + at % BLOCK] = token

    def plant(self, ids: list[int], *, exact: bool, offer: bool = True) -> int:
        """A sealed node that ends a path of `ids`, as a tree's root: from the cache as far as it goes, then offered."""
        match = self.cache.match(ids, exact=exact)
        assert match.length == 0 if match.handle is None else self.read(match.handle) == ids[: match.length]
        if match.length == len(ids):
            assert isinstance(match.known, torch.Tensor)
            assert match.known.tolist() == ids
            self.tree.hold(match.handle)
            return match.handle
        assert match.known is None
        node = self.tree.add_root() if match.handle is None else self.tree.fork(match.handle, 1)[0]
        try:
            self.feed(node, ids[match.length :])
        except OutOfMemory:
            self.tree.prune(node)
            raise
        self.tree.seal(node)
        if offer:
            self.cache.offer(node, ids[match.length :], torch.tensor(ids))
        return node

    def ways(self, ids: list[int], *, exact: bool) -> list[tuple[int, bool]]:
        """Every length at which `ids` could begin with what is cached, and whether that needs an unused node."""
        found = [(0, False)]
        for handle, entry in self.cache._entries.items():
            start, length, read = self.tree.start(handle), self.tree.length(handle), self.read(handle)
            borders_fit = all(self.tree.start(each) % CHUNK == 0 for each in self.path(handle))
            if exact and not borders_fit:
                continue
            for end in range(start + 1, min(start + length, len(ids)) + 1):
                if read[:end] != ids[:end]:
                    break
                at_chunk, at_block, whole = (
                    (end - start) % CHUNK == 0,
                    (end - start) % BLOCK == 0,
                    end == start + length,
                )
                if end == len(ids):
                    fits = whole and entry.known is not None
                else:
                    fits = at_chunk or (not exact and (whole or at_block))
                if fits:
                    found.append((end, not (at_chunk or whole)))
        return found


@dataclass(eq=False)
class User:
    """Somebody who goes on below a node, as a growing step does."""

    node: int
    below: int
    read: list[int]
    work: list[tuple[int, int]]


class PrefixMachine(RuleBasedStateMachine):
    """Prompts come and go; every answer of the cache is compared with a search over all it could be."""

    @initialize(n_blocks=st.integers(8, 60))
    def start(self, n_blocks: int) -> None:
        self.world = World(n_blocks)
        self.users: list[User] = []
        self.prompts: list[list[int]] = []

    def prompt(self, data: st.DataObject) -> list[int]:
        """A new one, or one that begins as an older one does."""
        new = data.draw(TOKENS)
        if self.prompts and data.draw(st.booleans()):
            old = data.draw(st.sampled_from(self.prompts))
            new = old[: data.draw(st.integers(0, len(old)))] + data.draw(st.sampled_from([[], new]))
        self.prompts.append(new or [0])
        return self.prompts[-1]

    @rule(data=st.data(), exact=st.booleans(), stay=st.booleans())
    def open(self, data: st.DataObject, exact: bool, stay: bool) -> None:
        world, ids = self.world, self.prompt(data)
        ways = world.ways(ids, exact=exact)
        longest, sure = max(end for end, _ in ways), max(end for end, unused in ways if not unused)
        found = world.cache.match(ids, exact=exact).length
        if exact or not self.users:
            assert found == longest
        assert sure <= found <= longest
        try:
            node = world.plant(ids, exact=exact)
        except OutOfMemory:
            return
        below = world.tree.fork(node, 1)[0]
        try:
            world.feed(below, [7])
        except OutOfMemory:
            stay = False
        else:
            work = world.work(below)
            assert world.read(below) == [*ids, 7]
            if exact:
                alone = World()
                lonely = alone.tree.fork(alone.plant(ids, exact=True), 1)[0]
                alone.feed(lonely, [7])
                assert work == alone.work(lonely)
            self.users.append(User(node, below, [*ids, 7], work))
        if not stay:
            self.leave(self.users.pop() if world.tree.length(below) else User(node, below, [], []))

    def leave(self, user: User) -> None:
        self.world.tree.prune(user.below)
        self.world.tree.prune(user.node)

    @rule(data=st.data(), offered=st.booleans())
    def close(self, data: st.DataObject, offered: bool) -> None:
        """A completion ends: what it wrote may be kept, too."""
        if not self.users:
            return
        user = self.users.pop(data.draw(st.integers(0, len(self.users) - 1)))
        if offered:
            self.world.tree.seal(user.below)
            self.world.cache.offer(user.below, [7], torch.tensor(user.read))
        self.leave(user)

    @rule(n_blocks=st.integers(0, 12))
    def evict(self, n_blocks: int) -> None:
        world = self.world
        cache, tree = world.cache, world.tree
        before, free, cached = cache.n_evictable, tree.n_free_blocks, list(cache._entries)
        order, expected = list(cached), []
        children = {handle: tree.n_children(handle) for handle in cached}
        gone = 0
        while gone < n_blocks:  # the first in order that nobody needs; those passed on the way were needed just now
            at = next((i for i, each in enumerate(order) if tree.n_holds(each) == 1 and not children[each]), None)
            if at is None:
                break
            order = order[at:] + order[:at]
            expected.append(order.pop(0))
            gone += len(tree.blocks(expected[-1]))
            above = tree.parent(expected[-1])
            if above is not None:
                children[above] -= 1
        freed = cache.evict(n_blocks)
        assert freed == gone == tree.n_free_blocks - free
        assert freed >= min(n_blocks, before)
        assert sorted(cache._entries) == sorted(set(cached) - set(expected))

    @rule()
    def clear(self) -> None:
        self.world.cache.clear()
        assert len(self.world.cache) == self.world.cache.n_blocks == 0

    @invariant()
    def users_read_what_they_read(self) -> None:
        world = self.world
        world.tree.check()
        for user in self.users:
            assert world.read(user.below) == user.read
            assert world.work(user.below) == user.work
        held = world.tree.n_blocks - world.tree.n_free_blocks
        assert world.cache.n_blocks <= held
        if not self.users:
            assert held == world.cache.n_blocks == world.cache.n_evictable

    @invariant()
    def entries_are_what_they_say(self) -> None:
        world = self.world
        for handle, entry in world.cache._entries.items():
            assert list(memoryview(entry.tokens).cast("i")) == world.tokens(handle)
            assert entry.known is None or entry.known.tolist() == world.read(handle)
            above = world.tree.parent(handle)
            assert (entry.parent.handle if entry.parent else None) == above
            siblings = world.cache._siblings(entry.parent)
            assert siblings.get(entry.tokens) is entry
            assert all(one.tokens < other.tokens for one, other in pairwise(siblings))


TestPrefixes = PrefixMachine.TestCase
TestPrefixes.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


def test_a_node_is_cut_at_a_block_where_nobody_goes_on_below_it_and_else_at_a_chunk():
    world, ids = World(), [*range(30)]
    world.tree.prune(world.plant(ids, exact=True))
    assert world.cache.match([*ids[:15], 99], exact=True).length == 8
    assert world.cache.match([*ids[:23], 99], exact=False).length == 20
    user = world.tree.fork(world.plant(ids, exact=False), 1)[0]
    assert world.cache.match([*ids[:27], 99], exact=False).length == 20
    world.tree.prune(user)
    assert world.cache.match([*ids[:7], 99], exact=False).length == 0  # who was in `plant` still holds the last node


def test_all_ids_are_found_only_where_their_end_is_known():
    world = World()
    node = world.plant([1] * 8, exact=True, offer=False)
    world.cache.offer(node, [1] * 8)
    world.tree.prune(node)
    assert world.cache.match([1] * 8, exact=True).length == 0
    assert world.cache.match([1] * 8, exact=False).length == 4


def test_what_was_used_last_stays_longest():
    world = World()
    for first in range(4):
        world.tree.prune(world.plant([first] * 8, exact=True))
    assert world.cache.n_blocks == world.cache.n_evictable == 8
    world.cache.match([0] * 8, exact=True)
    assert world.cache.evict(3) == 4
    assert [world.cache.match([first] * 8, exact=True).length for first in range(4)] == [8, 0, 0, 8]


def test_what_somebody_needs_is_not_evicted():
    world = World()
    node = world.plant([1] * 8, exact=True)
    world.tree.prune(world.plant([2] * 8, exact=True))
    assert world.cache.evict(99) == 2
    assert world.cache.evict(99) == 0
    child = world.tree.fork(node, 1)[0]
    world.tree.prune(node)
    assert (world.cache.evict(99), world.cache.n_evictable) == (0, 0)
    world.tree.prune(child)
    assert (world.cache.evict(99), world.tree.n_nodes) == (2, 0)


def test_steps_are_followed_by_exactly_their_ids():
    world = World()
    root = world.plant([1] * 5, exact=True)
    step = world.tree.fork(root, 1)[0]
    world.feed(step, [2, 3])
    world.tree.seal(step)
    world.cache.offer(step, [2, 3], 0.5)
    assert (world.cache.follow(root, [2, 3]).handle, world.cache.follow(root, [2, 3]).known) == (step, 0.5)
    assert [world.cache.follow(root, ids).handle for ids in ([2], [2, 3, 4], [])] == [None, None, None]
    assert world.cache.follow(step, [2, 3]).handle is None
    assert world.cache.follow(-1, [2, 3]).handle is None


def test_nodes_below_what_is_not_kept_are_not_kept_either():
    world = World()
    root = world.plant([1] * 5, exact=True, offer=False)
    step = world.tree.fork(root, 1)[0]
    world.feed(step, [2])
    world.tree.seal(step)
    world.cache.offer(step, [2])
    assert len(world.cache) == 0


@pytest.mark.parametrize(
    ("ids", "others", "exact", "length"),
    [
        ([1] * 20, [1] * 20, True, 20),
        ([1] * 20, [1] * 12 + [2], True, 8),
        ([1] * 20, [1] * 12, True, 8),
        ([1] * 20, [1] * 12, False, 12),
        ([1] * 16, [1] * 30, True, 8),
        ([1] * 20, [2], False, 0),
    ],
)
def test_what_a_prompt_under_way_will_be_good_for(ids, others, exact, length):
    world = World()
    assert world.cache.shared(ids, others, exact=exact) == length
    user = world.tree.fork(world.plant(others, exact=True), 1)[0]
    assert world.cache.match(ids, exact=exact).length == length
    world.tree.prune(user)
