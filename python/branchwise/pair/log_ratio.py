"""An implicit PRM as a judge: two models score every branch, and the ratio of what they find likely is its value."""

from __future__ import annotations

from collections.abc import Sequence

from branchwise.pair.protocol import Judge
from branchwise.pair.several import SeveralJudges, SeveralTree
from branchwise.scoring.implicit import ImplicitJudge
from branchwise.scoring.prm import sigmoid
from branchwise.types import Node


class LogRatio(SeveralJudges):
    """A `Judge` of two whose scores are log-probabilities of branches (`LikelihoodScorer`)."""

    def __init__(self, model: Judge, reference: Judge, judge: ImplicitJudge) -> None:
        super().__init__({"model": model, "reference": reference}, lambda scores: scores[0] - scores[1])
        self._judge = judge

    def _number(self, tree: SeveralTree, node: Node, scores: Sequence[float]) -> float:
        value = self.combine(scores)
        if self._judge.value == "step":
            value -= self.combine([self._before(nodes, node) for nodes in tree.nodes])
        return sigmoid(self._judge.beta * value)

    def _before(self, nodes: dict[Node, Node], node: Node) -> float:
        """What a judge said of the step before."""
        assert node.parent is not None
        return nodes[node.parent].score or 0.0
