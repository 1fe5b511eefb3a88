"""Plans of random trees: full coverage, right contents, and a row's work that depends on its path alone."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise._C import AttentionPlan, KvTree, Planner
from branchwise.errors import StaleNodeError

BLOCK, CHUNK = 4, 8


class World:
    """A tree with up to 4 levels and what was written into its slots: a hash of (path, token, position)."""

    def __init__(self) -> None:
        self.tree = KvTree(2000, BLOCK)
        self.nodes: list[int] = []
        self.depths: list[int] = []
        self.contents: dict[int, int] = {}

    def grow(self, parent: int | None, length: int) -> None:
        """Add a sealed node under the `parent`-th one that still has levels left, or a root."""
        inner = [i for i, depth in enumerate(self.depths) if depth < 3]
        at = None if parent is None or not inner else inner[parent % len(inner)]
        node = self.tree.add_root() if at is None else self.tree.fork(self.nodes[at], 1)[0]
        self.tree.append(node, length)
        self.tree.seal(node)
        self.nodes.append(node)
        self.depths.append(0 if at is None else self.depths[at] + 1)
        for offset, slot in enumerate(self.slots(node)):
            assert slot not in self.contents
            self.contents[slot] = hash((node, self.tree.start(node) + offset))

    def slots(self, node: int) -> list[int]:
        blocks = self.tree.blocks(node)
        return [blocks[token // BLOCK] * BLOCK + token % BLOCK for token in range(self.tree.length(node))]

    def path(self, node: int | None) -> list[int]:
        return [] if node is None else [*self.path(self.tree.parent(node)), node]

    def expected_contents(self, node: int, last_position: int) -> list[int]:
        """What a row must see, written down without slots or blocks."""
        positions = [(one, self.tree.start(one) + i) for one in self.path(node) for i in range(self.tree.length(one))]
        return [hash(pair) for pair in positions if pair[1] <= last_position]


def work_of_row(plan: AttentionPlan, row: int) -> list[tuple[int, list[int]]]:
    """(first key position, slots it sees) of each partial of a row, in the order in which they combine."""
    work = []
    for partial in plan.row_partials[plan.row_partial_begin[row] : plan.row_partial_begin[row + 1]]:
        begins = plan.items["partial_begin"]
        (found,) = np.flatnonzero(
            (begins <= partial) & (partial < begins + plan.items["row_end"] - plan.items["row_begin"])
        )
        item = plan.items[found]
        assert item["row_begin"] + partial - item["partial_begin"] == row
        visible = min(int(item["key_count"]), int(plan.positions[row] - item["key_position"]) + 1)
        assert visible >= 1, "a partial without any key"
        assert item["causal"] or visible == item["key_count"]
        blocks = plan.block_ids[item["block_begin"] :]
        slots = [int(blocks[key // BLOCK]) * BLOCK + key % BLOCK for key in range(visible)]
        work.append((int(item["key_position"]), slots))
    return work


def check_plan(world: World, plan: AttentionPlan, nodes: list[int], counts: list[int], max_item_rows: int) -> None:
    assert sorted(plan.order.tolist()) == list(range(len(nodes)))
    assert (len(plan.items), len(plan.row_partials)) == (plan.n_items, plan.n_partials)
    assert len(plan.positions) == len(plan.slots) == plan.n_rows == sum(counts)
    assert plan.last_rows.tolist() == [sum(counts[i] for i in plan.order[: n + 1]) - 1 for n in range(len(nodes))]
    assert plan.row_partial_begin.tolist()[-1] == plan.n_partials
    assert sorted(plan.row_partials.tolist()) == list(range(plan.n_partials))
    rows_of = plan.items["row_end"] - plan.items["row_begin"]
    assert ((rows_of >= 1) & (rows_of <= max_item_rows)).all()
    assert ((plan.items["key_count"] >= 1) & (plan.items["key_count"] <= CHUNK)).all()
    row = unshared = 0
    for index in plan.order:
        node = nodes[index]
        end = world.tree.start(node) + world.tree.length(node)
        for position in range(end - counts[index], end):
            work = work_of_row(plan, row)
            seen = [world.contents[slot] for _, slots in work for slot in slots]
            assert seen == world.expected_contents(node, position)
            assert plan.positions[row] == position
            assert world.contents[int(plan.slots[row])] == seen[-1]
            row, unshared = row + 1, unshared + len(seen)
    assert plan.kv_slots_read == plan.items["key_count"].sum()
    assert plan.kv_slots_unshared == unshared


@st.composite
def worlds(draw: st.DrawFn) -> World:
    world = World()
    shape = st.tuples(st.none() | st.integers(0, 99), st.integers(0, 7) | st.integers(0, 3 * CHUNK))
    for parent, length in draw(st.lists(shape, min_size=1, max_size=12)):
        world.grow(parent, length)
    return world


def draw_queries(data: st.DataObject, world: World) -> tuple[list[int], list[int]]:
    usable = [node for node in world.nodes if world.tree.length(node)]
    nodes = data.draw(st.lists(st.sampled_from(usable), unique=True)) if usable else []
    return nodes, [data.draw(st.integers(1, world.tree.length(node))) for node in nodes]


@settings(max_examples=150, deadline=None)
@given(world=worlds(), data=st.data(), max_item_rows=st.integers(1, 9))
def test_every_visible_pair_is_covered_once_with_the_right_content(world, data, max_item_rows):
    nodes, counts = draw_queries(data, world)
    plan = Planner(world.tree, CHUNK, max_item_rows).build(nodes, counts)
    check_plan(world, plan, nodes, counts, max_item_rows)


@settings(max_examples=100, deadline=None)
@given(world=worlds(), data=st.data())
def test_the_work_of_a_row_depends_on_its_path_alone(world, data):
    """Alone, among others, in large or small groups: the same chunks of the same keys in the same order."""
    nodes, counts = draw_queries(data, world)
    among_others = Planner(world.tree, CHUNK, data.draw(st.integers(1, 9))).build(nodes, counts)
    row = 0
    for index in among_others.order:
        alone = Planner(world.tree, CHUNK, 64).build(nodes[index : index + 1], [1])
        row += counts[index]
        assert work_of_row(among_others, row - 1) == work_of_row(alone, 0)


@settings(max_examples=60, deadline=None)
@given(world=worlds(), data=st.data())
def test_rows_follow_creation_not_the_order_of_the_inputs(world, data):
    nodes, counts = draw_queries(data, world)
    shuffled = data.draw(st.permutations(list(zip(nodes, counts, strict=True))))
    planner = Planner(world.tree, CHUNK, 4)
    plans = [planner.build([n for n, _ in pairs], [c for _, c in pairs]) for pairs in (shuffled, shuffled[::-1])]
    for name in ("positions", "slots", "items", "block_ids", "row_partial_begin", "row_partials"):
        assert np.array_equal(getattr(plans[0], name), getattr(plans[1], name))
    created = {node: at for at, node in enumerate(world.nodes)}
    keys = [[created[one] for one in world.path(shuffled[index][0])] for index in plans[0].order]
    assert keys == sorted(keys)


@settings(max_examples=100, deadline=None)
@given(world=worlds(), data=st.data())
def test_a_split_at_a_chunk_border_changes_no_work_and_no_order(world, data):
    """Splits there leave every row its chunks, also where nodes are split again, and rows keep their places."""
    nodes, _ = draw_queries(data, world)
    planner = Planner(world.tree, CHUNK, 64)
    before = planner.build(nodes, [1] * len(nodes))
    for node in data.draw(st.lists(st.sampled_from(world.nodes), max_size=6)):
        borders = range(CHUNK, world.tree.length(node), CHUNK)
        if borders:
            world.tree.split(node, data.draw(st.sampled_from(borders)))
            world.tree.check()
    after = planner.build(nodes, [1] * len(nodes))
    assert after.order.tolist() == before.order.tolist()
    assert [work_of_row(after, row) for row in range(after.n_rows)] == [
        work_of_row(before, row) for row in range(before.n_rows)
    ]


def test_shared_segments_are_read_once():
    tree = KvTree(100, 4)
    root = tree.add_root()
    tree.append(root, 20)
    tree.seal(root)
    leaves = tree.fork(root, 6)
    for leaf in leaves:
        tree.append(leaf, 3)
    plan = Planner(tree, 8, 64).build(leaves, [1] * 6)
    assert (plan.n_items, plan.n_partials) == (3 + 6, 6 * 3 + 6)
    assert (plan.kv_slots_read, plan.kv_slots_unshared) == (20 + 6 * 3, 6 * 23)
    assert not plan.items["causal"].any()
    in_pairs = Planner(tree, 8, 2).build(leaves, [1] * 6)
    assert in_pairs.kv_slots_read == 3 * 20 + 6 * 3
    assert set((in_pairs.items["row_begin"][:9] % 2).tolist()) == {0}


def test_prefill_skips_keys_after_a_group_and_rows_before_a_chunk():
    tree = KvTree(100, 4)
    root = tree.add_root()
    tree.append(root, 16)
    items = Planner(tree, 8, 4).build([root], [16]).items
    shape = [tuple(int(item[name]) for name in ("row_begin", "row_end", "key_position", "key_count")) for item in items]
    assert shape == [(0, 4, 0, 4), (4, 8, 0, 8), (8, 12, 0, 8), (12, 16, 0, 8), (8, 12, 8, 4), (12, 16, 8, 8)]
    assert items["causal"].tolist() == [True, True, False, False, True, True]


def test_a_plan_outlives_its_tree_and_its_arrays_are_read_only():
    tree = KvTree(8, 4)
    node = tree.add_root()
    tree.append(node, 5)
    positions = Planner(tree, 8).build([node], [5]).positions
    del tree
    assert positions.tolist() == [0, 1, 2, 3, 4]
    assert not positions.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        positions[0] = 1


def test_nothing_to_plan_is_an_empty_plan():
    plan = Planner(KvTree(8, 4), 8).build([], [])
    assert (plan.n_rows, plan.n_items, plan.n_partials, plan.kv_slots_read) == (0, 0, 0, 0)
    assert plan.row_partial_begin.tolist() == [0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda tree, node: Planner(tree, 8).build([node], []), "1 nodes and 0 counts"),
        (
            lambda tree, node: Planner(tree, 8).build([node], [0]),
            r"counts\[0\] is 0, expected 1 to the node",
        ),
        (lambda tree, node: Planner(tree, 8).build([node], [6]), r"counts\[0\] is 6"),
        (lambda tree, node: Planner(tree, 8).build([node, node], [1, 1]), r"nodes\[1\] is listed twice"),
        (lambda tree, node: Planner(tree, 8).build([[node]], [[1]]), "nodes has 2 axes, expected 1"),
        (lambda tree, node: Planner(tree, 10), "chunk_slots is 10, expected a multiple of the block size 4"),
        (lambda tree, node: Planner(tree, 0), "chunk_slots is 0"),
        (lambda tree, node: Planner(tree, 8, 0), "max_item_rows is 0, expected at least 1"),
    ],
)
def test_mistakes_are_refused(call, message):
    tree = KvTree(8, 4)
    node = tree.add_root()
    tree.append(node, 5)
    with pytest.raises(ValueError, match=message):
        call(tree, node)


def test_a_stale_node_cannot_be_planned_and_leaves_the_planner_usable():
    tree = KvTree(8, 4)
    kept, freed = tree.add_root(), tree.add_root()
    tree.append(kept, 5)
    tree.prune(freed)
    planner = Planner(tree, 8)
    with pytest.raises(StaleNodeError, match="freed"):
        planner.build([kept, freed], [1, 1])
    assert planner.build([kept], [2]).positions.tolist() == [3, 4]


def test_planning_64_deep_rows_stays_far_below_a_decode_iteration():
    """64 chains of 20 nodes share nothing but the root: the worst case takes well under 0.1 ms; allow 20 times that."""
    tree = KvTree(4000, 32)
    root = tree.add_root()
    tree.append(root, 300)
    tree.seal(root)
    leaves = tree.fork(root, 64)
    for depth in range(20):
        for leaf in leaves:
            tree.append(leaf, 60)
            if depth < 19:
                tree.seal(leaf)
        if depth < 19:
            leaves = [tree.fork(leaf, 1)[0] for leaf in leaves]
    planner, nodes, counts = Planner(tree), np.array(leaves), np.ones(64, np.int32)
    seconds = []
    for _ in range(20):
        begin = time.perf_counter()
        plan = planner.build(nodes, counts)
        seconds.append(time.perf_counter() - begin)
    assert plan.n_items == 2 + 64 * 20
    assert min(seconds) < 2e-3
