"""Independent chains: n branches that grow step by step, each as soon as its last step is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from branchwise.strategies.candidates import ended
from branchwise.strategies.protocol import Action, Ask, Demand, Drop, Limits, Random, Reply, State
from branchwise.types import Node, Problem, Sampling


@dataclass(slots=True)
class ChainState(State):
    """A search by chains; `wishes` are the actions to propose next."""

    wishes: list[Action] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Chains:
    """The growth rule of best-of-n, majority and greedy. No barrier: every chain is a lane and never waits.

    max_steps: of a chain; None: as many as its tokens allow
    """

    n: int
    max_steps: int | None = None
    name: ClassVar[str] = "chains"
    uses_scores: ClassVar[bool] = False
    sampling: ClassVar[Sampling | None] = None  # None: the run's
    independent: ClassVar[bool] = True  # of n: chain i is the same in a search of more, or fewer

    def demand(self, limits: Limits) -> Demand:
        """n whole paths."""
        return Demand(self.n, self.n, self.max_steps, self.uses_scores)

    def start(self, problem: Problem, root: Node, random: Random) -> ChainState:
        """Ask for n first steps, one by one, so that each chain goes on when its own is done."""
        return ChainState(problem, root, wishes=[self._step(root, lane) for lane in range(self.n)])

    def propose(self, state: State) -> list[Action]:
        """Return the next step of every chain whose last step has been observed."""
        assert isinstance(state, ChainState)
        wishes, state.wishes = state.wishes, []
        return wishes

    def observe(self, state: State, replies: list[Reply]) -> None:
        """Move each chain to its new step, or to the finished ones."""
        assert isinstance(state, ChainState)
        for reply in replies:
            (child,) = reply.nodes
            state.live.discard(reply.ask.node)
            if ended(child, self.max_steps):
                state.finished.append(child)
                state.wishes.append(Drop(child))
            else:
                state.live.add(child)
                state.wishes.append(self._step(child, child.lineage_path[0]))

    def _step(self, node: Node, lane: int) -> Ask:
        return Ask(node, 1, sampling=self.sampling, lane=lane)
