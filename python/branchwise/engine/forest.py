"""All open trees of an engine: which steps they have, and who still holds the KV of each.

A step is held by its owner until `prune`, and by every child whose KV is held; the last one to let go frees it. Steps
that were written ahead, before anybody asked for them, are the first to go when memory is short.
"""

from __future__ import annotations

from collections.abc import Sequence

from branchwise._C import lineage_child
from branchwise.engine.branch import Branch, StepLimits, Tree
from branchwise.engine.kv import Demand, KvCache
from branchwise.engine.rows import Growing, Opening, RowQueue
from branchwise.errors import ConfigError, StaleNodeError
from branchwise.text.steps import StepDetector
from branchwise.types import Node, Sampling


class Forest:
    """The trees on one KV cache, and what they want of the rows."""

    def __init__(self, kv: KvCache, rows: RowQueue) -> None:
        self.kv = kv
        self.rows = rows
        self.finished: list[tuple[Tree, Node]] = []  # steps that the next poll reports

    def open(
        self, prompt: Sequence[int], *, lineage: int, branches: int, kept: int, max_steps: int, limits: StepLimits,
        sampling: Sampling, seed: int, detector: StepDetector, speculates: bool,
    ) -> Tree | None:  # fmt: skip
        """Plant a tree whose worst case fits beside what runs, or return None."""
        demand = Demand(len(prompt), branches, kept, limits.max_tokens, limits.max_step_tokens, max_steps)
        blocks = self.kv.reserve(demand)
        if blocks is None:
            return None
        root = Node(id=0, parent=None, index=0, depth=0, lineage=lineage)
        tree = Tree(root, sampling, seed, detector, limits, len(prompt), blocks, max_steps, speculates, width=branches)
        tree.branches[root] = Branch(root, None, self.kv.tree.add_root(), len(prompt), list(prompt))
        root.cost.prefill_tokens = tree.cost.prefill_tokens = len(prompt)
        return tree

    def expand(self, tree: Tree, node: Node, n: int) -> None:
        """Queue `n` more children of a node; the first one may have been written ahead.

        ConfigError: n < 1. StaleNodeError: its KV is gone, or it has ended.
        """
        branch = tree.branches.get(node)
        if n < 1:
            raise ConfigError(f"expand with n={n}: expected at least 1 child")
        if tree.closed or branch is None or branch.released:
            raise StaleNodeError(f"node {node.id} was pruned or its tree closed: it can no longer be expanded")
        if node.is_final or (node.parent is not None and node.finish is None):
            raise StaleNodeError(f"node {node.id} has finish {node.finish!r}: only a step that stopped can be expanded")
        n -= self._adopt(tree, branch)
        if n:
            self.rows.openings.append(Opening(tree, branch, n))

    def _adopt(self, tree: Tree, parent: Branch) -> int:
        """Take over the first child of a step if it was written ahead; returns the number of children gained."""
        child = self.rows.adopt(parent)
        if child is None:
            return 0
        node = child.branch.node
        parent.node.children.append(node)
        tree.cost.generated_tokens += len(node.tokens)
        tree.cost.speculated_tokens -= len(node.tokens)
        if node.finish is not None:
            self.finished.append((tree, node))
        return 1

    def begin_children(self, opening: Opening) -> list[Growing]:
        """The steps an opening asked for, on fresh KV blocks; their parent must be sealed."""
        return [self._begin_child(opening, handle) for handle in self.kv.tree.fork(opening.branch.handle, opening.n)]

    def _begin_child(self, opening: Opening, handle: int) -> Growing:
        tree, parent = opening.tree, opening.branch
        index = len(parent.node.children)
        lineage = lineage_child(parent.node.lineage, index)
        node = Node(
            id=len(tree.branches), parent=parent.node, index=index, depth=parent.node.depth + 1, lineage=lineage
        )
        parent.holders += 1
        child = Growing(tree, Branch(node, parent, handle, parent.end, [], tree.detector.start, ahead=opening.ahead))
        tree.branches[node] = child.branch
        if opening.ahead:
            self.rows.ahead.children[parent] = child
        else:
            parent.node.children.append(node)
        return child

    def prune(self, tree: Tree, node: Node) -> None:
        """Drop the owner's hold on a node, and what was written ahead of it. A growing step is abandoned."""
        branch = tree.branches.get(node)
        if branch is not None and not branch.released:
            self._free(tree, [branch, *self.rows.ahead.take_below(branch)])

    def drop_ahead(self) -> bool:
        """Free all that was written ahead, and begin nothing of it; False when there was nothing."""
        ahead = self.rows.ahead
        heads = [(item.tree, parent) for parent, item in ahead.children.items() if not parent.ahead]
        found = bool(heads or ahead.openings)
        for tree, parent in heads:
            self._free(tree, ahead.take_below(parent))
        ahead.openings.clear()
        return found

    def close(self, tree: Tree) -> None:
        """Free everything a tree holds. Closing twice is allowed."""
        if tree.closed:
            return
        for node in list(tree.branches):
            self.prune(tree, node)
        self.kv.release(tree.reserved_blocks)
        tree.closed = True

    def _free(self, tree: Tree, branches: list[Branch]) -> None:
        self.rows.forget(branches)
        for branch in branches:
            if branch.ahead:
                tree.root.cost.kv_bytes_read += branch.node.cost.kv_bytes_read
            branch.released = True
            self.kv.tree.prune(branch.handle)
            tree.let_go(branch)
        nodes = {branch.node for branch in branches}
        self.finished = [(tree, node) for tree, node in self.finished if node not in nodes]
