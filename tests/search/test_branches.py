"""What a strategy holds: every step of a chain may be asked for more, and goes when nobody wants it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from branchwise.search.branches import Branches
from branchwise.types import Node


def chain(top: Node, length: int) -> list[Node]:
    nodes = []
    for _ in range(length):
        top = Node(0, top, len(top.children), top.depth + 1, 0, finish="stop")
        assert top.parent is not None
        top.parent.children.append(top)
        nodes.append(top)
    return nodes


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=6), st.data())
def test_every_step_is_held_until_it_is_dropped_and_freed_once(
    grown: list[tuple[int, int]], data: st.DataObject
) -> None:
    root, freed = Node(0, None, 0, 0, 0), list[Node]()
    branches, nodes = Branches(root, freed.append), [root]
    for place, length in grown:
        top = nodes[place % len(nodes)]
        new = chain(top, length)
        branches.hold(top, new[-1:])
        nodes += new
    assert all(node in branches for node in nodes)
    while len(freed) < len(nodes) - 1:
        top = data.draw(st.sampled_from([node for node in nodes[1:] if node in branches]))
        below = [node for node in nodes if top in (*node.path,) and node in branches]
        assert set(branches.drop(top)) == set(below)
        branches.fall(top.parent, ())
    assert len(set(freed)) == len(freed)
    assert root in branches
