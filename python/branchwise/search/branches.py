"""The nodes that a strategy may still ask, and when the KV of each goes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from branchwise.tree import walk
from branchwise.types import Node


class Branches:
    """What a strategy holds of its tree; `free` is called once for every node that it lets go.

    A node is held from the reply that brings it until it is dropped. One that has ended keeps its place but frees its
    KV at once: nothing can be asked of it.
    """

    def __init__(self, root: Node, free: Callable[[Node], None]) -> None:
        self._held = {root: 0}  # with the number of their children that are held
        self._free = free

    def __contains__(self, node: object) -> bool:
        return node in self._held

    def hold(self, ancestor: Node, nodes: list[Node]) -> None:
        """Take in the steps of a reply, those between them and the asked one, too."""
        for node in nodes:
            new: list[Node] = []
            step: Node | None = node
            while step is not None and step is not ancestor and step not in self._held:
                new.append(step)
                step = step.parent
            for step in reversed(new):
                assert step.parent is not None
                self._held[step] = 0
                self._held[step.parent] += 1
                if step.is_final:
                    self._free(step)

    def drop(self, top: Node) -> Iterator[Node]:
        """Let a node go with all that is held below it; yields them."""
        for node in walk(top):
            if node in self._held:
                self._let_go(node)
                yield node

    def fall(self, node: Node | None, wanted: Collection[Node]) -> None:
        """An inner node goes with the last node below it, unless steps of it are wanted.

        The root stays, for it may be asked again.
        """
        while node is not None and node.parent is not None and self._held.get(node) == 0 and node not in wanted:
            self._let_go(node)
            node = node.parent

    def _let_go(self, node: Node) -> None:
        del self._held[node]
        if node.parent in self._held:
            self._held[node.parent] -= 1
        if not node.is_final:  # else its KV went when it came
            self._free(node)
