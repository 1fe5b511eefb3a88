"""A tree that policy and judge both know, and which steps were asked for together."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from branchwise.engine.kv import Lease
from branchwise.pair.protocol import JudgeTree, PolicyTree
from branchwise.strategies.protocol import Demand
from branchwise.types import Node


@dataclass(slots=True, eq=False)
class PairTree:
    """One open problem: the policy's tree and, where scores are wanted, the judge's; of given texts only those.

    judges: a tree for each prompt under which scores are wanted, the root first    planted: prompts beside the root
    """

    policy: PolicyTree | None
    judges: dict[Node, JudgeTree] = field(default_factory=dict)
    planted: list[Node] = field(default_factory=list)
    demand: Demand | None = None
    paused: bool = False
    ends: dict[Node, list[int]] = field(default_factory=dict)  # child indices at which the expansions of a node end
    cancelled_flops: float = 0.0

    @property
    def root(self) -> Node:
        return next(iter(self.judges)) if self.policy is None else self.policy.root

    @property
    def prompt(self) -> Sequence[int]:
        return () if self.policy is None else self.policy.prompt

    @property
    def leases(self) -> list[Lease]:
        """What it holds of the models' caches."""
        own = [] if self.policy is None or self.policy.lease is None else [self.policy.lease]
        return own + [lease for judge in self.judges.values() for lease in judge.leases]

    def expanded(self, node: Node, first: int, n: int) -> None:
        """Remember which children were asked for together."""
        self.ends.setdefault(node, [0]).append(first + n)

    def expansion(self, node: Node) -> tuple[Node | None, int]:
        """Which wish a step belongs to: its siblings of the same wish are waited for together."""
        parent = node.parent
        return parent, bisect_right(self.ends.get(parent, []) if parent else [], node.index)

    def size(self, parent: Node | None, wish: int) -> int:
        """How many steps were wished for."""
        if parent is None:
            return 1
        first, end = self.ends[parent][wish - 1 : wish + 1]
        return end - first
