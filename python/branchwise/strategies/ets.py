"""ETS: REBASE over the branches that are worth their KV: reward, less what a branch holds alone, plus diversity."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from branchwise.strategies.options import check_number
from branchwise.strategies.rebase import Rebase, balanced
from branchwise.types import Node


@dataclass(frozen=True, slots=True)
class ETS(Rebase):
    """REBASE among the branches that are worth the KV they hold alone.

    A set of branches is picked first. It is grown one branch at a time by what it adds to

        REBASE shares - kv_cost * tokens it holds / tokens all hold + diversity * clusters it covers / all clusters

    as long as that is more than nothing. Tokens that branches share count once, so a sibling of what is kept is cheap.
    The sum is submodular, so that taking the best addition each time is near the optimum, and needs no integer program.
    A cluster holds steps whose words are alike (Jaccard index of `alike` or more with its first).

    Source: Hooper et al., ETS: Efficient Tree Search, arXiv 2502.13575, which counts nodes for tokens, clusters by a
    sentence model and solves an integer program at each level.
    """

    kv_cost: float = 1.0
    diversity: float = 1.5
    alike: float = 0.8
    name: ClassVar[str] = "ets"

    def __post_init__(self) -> None:
        Rebase.__post_init__(self)
        check_number(self.name, "kv_cost", self.kv_cost, 0, 1000)
        check_number(self.name, "diversity", self.diversity, 0, 1000)
        check_number(self.name, "alike", self.alike, 0, 1, positive=True)

    def share(self, ranked: Sequence[Node], heads: Sequence[Node], slots: int) -> list[int]:
        """REBASE's shares among the branches that are worth keeping."""
        weights = self.weights(heads)
        kept = self._worth_keeping(ranked, weights)
        among = iter(balanced([weight for place, weight in enumerate(weights) if place in kept], slots))
        return [next(among) if place in kept else 0 for place in range(len(ranked))]

    def _worth_keeping(self, ranked: Sequence[Node], weights: Sequence[float]) -> set[int]:
        total, clusters = sum(weights), self._clusters(ranked)
        all_tokens = sum(_tokens(node) for node in {step for node in ranked for step in node.path})
        held: set[Node] = set()
        kept: set[int] = set()
        covered: set[int] = set()

        def gain(place: int) -> float:
            new = 0
            for step in reversed(ranked[place].path):  # up to what is held already: the rest of the path is, too
                if step in held:
                    break
                new += _tokens(step)
            worth = weights[place] / total - self.kv_cost * new / all_tokens
            return worth + (self.diversity / len(set(clusters)) if clusters[place] not in covered else 0.0)

        while len(kept) < len(ranked):
            best = max((place for place in range(len(ranked)) if place not in kept), key=lambda p: (gain(p), -p))
            if kept and gain(best) <= 0:
                break
            kept.add(best)
            held.update(ranked[best].path)
            covered.add(clusters[best])
        return kept

    def _clusters(self, ranked: Sequence[Node]) -> list[int]:
        """The number of each branch's cluster, by its last step; the first of a cluster stands for it."""
        leaders: list[set[str]] = []
        numbers = []
        for node in ranked:
            words = set(re.findall(r"\w+", node.text))
            home = next((i for i, other in enumerate(leaders) if _jaccard(words, other) >= self.alike), len(leaders))
            if home == len(leaders):
                leaders.append(words)
            numbers.append(home)
        return numbers


def _tokens(node: Node) -> int:
    return max(1, len(node.tokens))


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other) if one or other else 1.0
