"""Independent chains: n branches that grow step by step, each as soon as its last step is done."""

from __future__ import annotations

from dataclasses import dataclass, field

from branchwise.search.candidates import ended
from branchwise.types import Expand, Expanded, Node, Problem, SearchState


@dataclass(slots=True)
class ChainState(SearchState):
    """The branches of a search by chains; `wishes` are the steps to ask for next."""

    wishes: list[Expand] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Chains:
    """The growth rule of best-of-n, majority and greedy. No barrier: a chain never waits for another."""

    n: int
    max_steps: int = 40

    def start(self, problem: Problem, root: Node) -> ChainState:
        """Ask for n first steps, one by one, so that each chain goes on when its own is done."""
        return ChainState(problem, root, live={root}, wishes=[Expand(root, 1) for _ in range(self.n)])

    def propose(self, state: SearchState) -> list[Expand]:
        """Return the next step of every chain whose last step has been observed."""
        assert isinstance(state, ChainState)
        wishes, state.wishes = state.wishes, []
        return wishes

    def observe(self, state: SearchState, results: list[Expanded]) -> None:
        """Move each chain to its new step, or to the finished ones."""
        assert isinstance(state, ChainState)
        for result in results:
            state.live.discard(result.node)
            (child,) = result.children
            if ended(child, self.max_steps):
                state.finished.append(child)
            else:
                state.live.add(child)
                state.wishes.append(Expand(child, 1))
