"""Several judges as one: each scores every step in a tree of its own, and a stated rule makes one number of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from branchwise.engine.kv import Lease
from branchwise.pair.protocol import Judge
from branchwise.types import Node

RULES: Mapping[str, Callable[[Sequence[float]], float]] = MappingProxyType(
    {
        "product": math.prod,
        "mean": lambda scores: math.fsum(scores) / len(scores),
        "min": min,
        "first": lambda scores: scores[0],
    }
)
"""What becomes of the scores of several judges, in their order; "first" records the others and goes by the first."""


@dataclass(slots=True, eq=False)
class SeveralTree:
    """One problem as each judge sees it: a tree of its own, over nodes of its own that say what the policy's say."""

    root: Node
    trees: list[Any]
    nodes: list[dict[Node, Node]]  # of each judge, by the policy's
    waiting: dict[Node, int] = field(default_factory=dict)  # judges that have not scored a step yet

    @property
    def prompt_tokens(self) -> int:
        return sum(tree.prompt_tokens for tree in self.trees)

    @property
    def cached_tokens(self) -> int:
        return sum(tree.cached_tokens for tree in self.trees)

    @property
    def rebuilt_tokens(self) -> int:
        return sum(tree.rebuilt_tokens for tree in self.trees)

    @property
    def leases(self) -> list[Lease]:
        return [lease for tree in self.trees for lease in tree.leases]


class SeveralJudges:
    """A `Judge` of judges. combine: makes one number of theirs, as `RULES` do.

    A step has no score as long as one of them has none; `Node.scores_by` has what each of them said.
    """

    flops_per_token = 0.0  # each judge has its own: they are counted here

    def __init__(self, judges: Mapping[str, Judge], combine: Callable[[Sequence[float]], float]) -> None:
        self.names = list(judges)
        self.judges = list(judges.values())
        self.combine = combine
        self.batch_rows = max(judge.batch_rows for judge in self.judges)
        self.tokenizer = self.judges[0].tokenizer
        self._owner: list[dict[Node, tuple[SeveralTree, Node]]] = [{} for _ in self.judges]  # by each judge's node

    @property
    def idle(self) -> bool:
        """True when nothing waits for a score."""
        return all(judge.idle for judge in self.judges)

    @property
    def pending(self) -> int:
        """Tokens that have not been fed, of all of them."""
        return sum(judge.pending for judge in self.judges)

    @property
    def first(self) -> Node:
        """The root of the tree that has waited longest for the first judge that has work."""
        place, judge = next((place, judge) for place, judge in enumerate(self.judges) if not judge.idle)
        return self._owner[place][judge.first][0].root

    def flops(self, tree: SeveralTree) -> float:
        """What a tree cost beside its steps, with all of them."""
        return sum(judge.flops(own) for judge, own in zip(self.judges, tree.trees, strict=True))

    def room(self, question: str) -> int:
        """Tokens that the text of a solution may have for every one of them."""
        return min(judge.room(question) for judge in self.judges)

    def open(self, root: Node, question: str, **sizes: Any) -> SeveralTree:
        """Start a tree with every judge, or with none."""
        trees: list[Any] = []
        roots = [Node(0, None, 0, 0, root.lineage) for _ in self.judges]
        try:
            for judge, own in zip(self.judges, roots, strict=True):
                trees.append(judge.open(own, question, **sizes))
        except BaseException:
            for judge, tree in zip(self.judges, trees, strict=False):
                judge.close(tree)
            raise
        several = SeveralTree(root, trees, [{root: own} for own in roots])
        for place, own in enumerate(roots):
            self._owner[place][own] = several, root
        return several

    def check_text(self, index: int, text: str) -> None:
        """InputError: one of them cannot score this text as step `index` of any solution."""
        for judge in self.judges:
            judge.check_text(index, text)

    def submit(self, tree: SeveralTree, node: Node) -> bool:
        """Queue a finished step with every judge, and those before it; False when one of them will give no score."""
        taken = [
            judge.submit(own, self._twin(place, tree, node))
            for place, (judge, own) in enumerate(zip(self.judges, tree.trees, strict=True))
        ]
        if all(taken):
            for step in node.path:
                if step is node or (step.score is None and step.unjudged is None and step.text.strip()):
                    tree.waiting.setdefault(step, len(self.judges))
            return True
        for nodes in tree.nodes:
            if nodes[node].cut is not None:
                node.finish, node.cut = nodes[node].finish, nodes[node].cut
        return False

    def _twin(self, place: int, tree: SeveralTree, node: Node) -> Node:
        """A judge's own node for a step, made with those before it."""
        nodes = tree.nodes[place]
        if node not in nodes:
            assert node.parent is not None
            parent = self._twin(place, tree, node.parent)
            own = nodes[node] = Node(
                node.id, parent, node.index, node.depth, node.lineage, node.tokens, node.text, logprob=node.logprob,
                states=node.states, finish=node.finish, confidence=node.confidence,
            )  # fmt: skip
            self._owner[place][own] = tree, node
        return nodes[node]

    def release(self, tree: SeveralTree, node: Node) -> None:
        """The node, and what will come below it, needs no more scores."""
        tree.waiting.pop(node, None)
        for place, (judge, own) in enumerate(zip(self.judges, tree.trees, strict=True)):
            twin = tree.nodes[place].get(node)
            if twin is not None:
                judge.release(own, twin)

    def close(self, tree: SeveralTree) -> None:
        """Free everything."""
        for place, (judge, own) in enumerate(zip(self.judges, tree.trees, strict=True)):
            judge.close(own)
            for twin in tree.nodes[place].values():
                self._owner[place].pop(twin, None)

    def give_up(self, tree: SeveralTree) -> None:
        """Score nothing that is queued of a tree."""
        tree.waiting.clear()
        for judge, own in zip(self.judges, tree.trees, strict=True):
            judge.give_up(own)

    def shed(self, tree: SeveralTree, *, hard: bool = False) -> bool:
        """Free KV of a tree's steps with every judge; False: there was none."""
        return sum(judge.shed(own, hard=hard) for judge, own in zip(self.judges, tree.trees, strict=True)) > 0

    def poll(self, *, least: int = 1, alone: bool = False) -> list[Node]:
        """A pass of every judge; the steps that all of them have scored."""
        done: list[Node] = []
        enough = self.pending >= least
        for place, judge in enumerate(self.judges):
            if judge.idle or not enough:
                continue
            for twin in judge.poll(alone=alone):
                tree, node = self._owner[place][twin]
                node.cost.prm_tokens += twin.cost.prm_tokens
                node.cost.cached_tokens += twin.cost.cached_tokens
                _charge(node, twin.cost.prm_tokens * judge.flops_per_token)
                left = tree.waiting.get(node)
                if left is not None:
                    tree.waiting[node] = left - 1
                    if left == 1:
                        del tree.waiting[node]
                        self._combine(tree, node)
                        done.append(node)
        return done

    def _combine(self, tree: SeveralTree, node: Node) -> None:
        twins = [nodes[node] for nodes in tree.nodes]
        node.scores_by = {name: twin.score for name, twin in zip(self.names, twins, strict=True)}
        node.states = None
        node.unjudged = next((twin.unjudged for twin in twins if twin.unjudged is not None), None)
        scores = [twin.score for twin in twins if twin.score is not None]
        if len(scores) == len(twins):
            node.score = self._number(tree, node, scores)

    def _number(self, tree: SeveralTree, node: Node, scores: Sequence[float]) -> float:
        return self.combine(scores)


def _charge(node: Node, flops: float) -> None:
    node.cost.flops += flops
    node.cost.prm_flops += flops
