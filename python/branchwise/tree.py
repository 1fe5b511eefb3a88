"""Helpers over the tree of a problem: its nodes in order, their numbers, what they cost."""

from __future__ import annotations

from collections.abc import Iterator

from branchwise.types import Cost, Node


def walk(root: Node) -> Iterator[Node]:
    """Yield every node breadth first, siblings in order of child index."""
    level = [root]
    while level:
        yield from level
        level = [child for node in level for child in sorted(node.children, key=lambda child: child.index)]


def root_of(node: Node) -> Node:
    """The top of the tree that a node is in."""
    while node.parent is not None:
        node = node.parent
    return node


def number(root: Node) -> None:
    """Put children in order of index and number all nodes breadth first from 0, which the tree alone decides."""
    for id_, node in enumerate(walk(root)):
        node.id = id_
        node.children.sort(key=lambda child: child.index)


def total_cost(root: Node) -> Cost:
    """The sum of all nodes' costs; the root's own record holds what belongs to no single step."""
    total = Cost()
    for node in walk(root):
        total.add(node.cost)
    return total
