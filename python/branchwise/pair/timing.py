"""When a pass of the judge is worth its time.

A pass reads all weights, so larger ones are cheaper; but branches whose scores are late leave rows of the policy empty.
So a pass is due when the iterations that were lost in empty rows cost as much as reading the weights once more (as when
to buy instead of renting skis), about half an iteration of full rows, or when it is full.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from branchwise.pair.protocol import Judge, OpenTree, Policy, RowLoad
from branchwise.pair.tree import PairTree
from branchwise.types import Node

MIN_ROWS = 64  # new tokens worth a pass beside a policy that decodes at the same time


class PassTiming:
    """Counts what waiting costs, from one pass to the next."""

    def __init__(self, policy: Policy, judge: Judge) -> None:
        self._policy = policy
        self._judge = judge
        self._idled = 0.0  # iterations lost, since the last pass, in rows whose branches wait for scores

    def passed(self) -> None:
        """Scores became known."""
        self._idled = 0.0

    def least_rows(self, policy_busy: bool, trees: Mapping[Node, PairTree], waiting: Mapping[Node, PairTree]) -> int:
        """New tokens that a pass should have now.

        trees: all open ones, by root    waiting: trees of the steps that wait for a score
        """
        if not policy_busy:
            return 1
        if self._policy.overlaps:
            return MIN_ROWS
        load = self._policy.load
        blocked = blocked_rows(load, trees, waiting)
        self._idled += blocked / (blocked + load.used)
        due = 2 * self._idled * self._policy.flops_per_token >= self._judge.flops_per_token
        return 1 if due else self._judge.batch_rows

    @property
    def worth_more(self) -> float:
        """New tokens for which a pass is followed by one more.

        Passes that are nearly full gain nothing by waiting, while branches without scores fall behind the others and
        are the last to decode, in iterations that are nearly empty. Beside a GPU's policy they take turns.
        """
        return inf if self._policy.overlaps else self._judge.batch_rows / 4


def blocked_rows(load: RowLoad, trees: Mapping[Node, PairTree], waiting: Mapping[Node, PairTree]) -> int:
    """Rows that stay empty because scores are missing: all of a tree that waits for nothing else, and in other trees
    as many as a complete expansion has steps, as far as nobody else waits for these rows. A given text counts as a row.
    """
    given = sum(tree.policy is None for tree in waiting.values())
    waiting = {node: tree for node, tree in waiting.items() if tree.policy is not None}
    free = load.max_rows - load.used
    if free <= 0:
        return given

    def pair_tree(tree: OpenTree) -> PairTree:
        return trees[tree.root]

    growing = [(pair_tree(tree), node) for tree, node in load.growing]
    unfinished = {tree.expansion(node) for tree, node in growing}
    busy_trees = {tree for tree, _ in growing} | {pair_tree(tree) for tree, _ in load.openings}
    idle_trees = set(waiting.values()) - busy_trees
    blocked = sum(tree.policy.width for tree in idle_trees if tree.policy is not None)
    wishes = {tree.expansion(node): tree for node, tree in waiting.items() if tree not in idle_trees}
    blocked += sum(tree.size(*wish) for wish, tree in wishes.items() if wish not in unfinished)
    return given + min(blocked, free)
