"""AB-MCTS-A: adaptive branching. Thompson sampling decides at every node whether to widen the tree or to deepen it."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random as Generator
from typing import ClassVar, Literal

from branchwise.answers.aggregate import AGGREGATES
from branchwise.answers.vote import VOTES, Vote
from branchwise.strategies.candidates import branch_score, choose_among
from branchwise.strategies.options import check_choice, check_count
from branchwise.strategies.protocol import Action, Ask, Demand, Drop, Limits, Random, Reply, State
from branchwise.types import Aggregate, Node, Problem, Selection

Posterior = Literal["beta", "gaussian"]


@dataclass(slots=True)
class AbState(State):
    """What came of the solutions that pass each node: `through` it, and `drawn` by going on from it anew."""

    random: Random | None = None
    through: dict[Node, list[float]] = field(default_factory=dict)
    drawn: dict[Node, list[float]] = field(default_factory=dict)
    begun: int = 0  # solutions asked for
    in_flight: int = 0
    wishes: list[Action] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class AbMcts:
    """n solutions; Thompson sampling decides at every node: a new one from here, or deeper.

    They come one after another, `parallel` at a time. Each begins at the root: there, and at every node it comes
    to, one number is drawn for "a new continuation from here" and one for each child, from what is believed of the
    scores of the solutions that came of it; the largest decides. A new continuation is written to its end.

    posterior  "beta": Beta(1/2 + sum of scores, 1/2 + sum of what they lack to 1)
               "gaussian": normal-inverse-chi-square with mean 0, kappa 1, nu 1 and scale 0.1, as treequest has it

    Source: Inoue et al., Wider or Deeper? Adaptive Branching Tree Search, arXiv 2503.04412, with steps for nodes.
    """

    n: int = 16
    parallel: int = field(default=4, kw_only=True)
    posterior: Posterior = field(default="beta", kw_only=True)
    aggregate: Aggregate = field(default="last", kw_only=True)
    max_steps: int = field(default=40, kw_only=True)
    vote: Vote = field(default="weighted", kw_only=True)
    name: ClassVar[str] = "ab_mcts"

    def __post_init__(self) -> None:
        for option in ("n", "parallel", "max_steps"):
            check_count(self.name, option, getattr(self, option))
        check_choice(self.name, "posterior", self.posterior, ("beta", "gaussian"))
        check_choice(self.name, "aggregate", self.aggregate, AGGREGATES)
        check_choice(self.name, "vote", self.vote, VOTES)

    def demand(self, limits: Limits) -> Demand:
        """The solutions that grow at once; every step of the tree may be gone on from."""
        most = min(self.parallel, self.n)
        return Demand(most, most, self.max_steps, scores=True)

    def start(self, problem: Problem, root: Node, random: Random) -> AbState:
        """Ask for the first solutions, all from the root."""
        state = AbState(problem, root, random=random)
        self._begin(state)
        return state

    def propose(self, state: State) -> list[Action]:
        """Return the continuations to write."""
        assert isinstance(state, AbState)
        wishes, state.wishes = state.wishes, []
        return wishes

    def observe(self, state: State, replies: list[Reply]) -> None:
        """Tell every node on the path of a solution what it scored, and ask for another."""
        assert isinstance(state, AbState)
        for reply in replies:
            (end,) = reply.nodes
            score = branch_score(end, self.aggregate)
            worth = 0.0 if score is None else score
            state.in_flight -= 1
            state.finished.append(end)
            state.drawn.setdefault(reply.ask.node, []).append(worth)
            for node in end.path:
                state.through.setdefault(node, []).append(worth)
            for node in end.path[reply.ask.node.depth : -1]:
                state.drawn.setdefault(node, []).append(worth)
            self._begin(state)
            if not state.in_flight:  # nothing is gone on from any more
                state.wishes += [Drop(child) for child in state.root.children]

    def _begin(self, state: AbState) -> None:
        while state.begun < self.n and state.in_flight < self.parallel:
            node = self._choose(state)
            state.begun += 1
            state.in_flight += 1
            state.wishes.append(Ask(node, 1, steps=self.max_steps - node.depth))

    def _choose(self, state: AbState) -> Node:
        """The node to go on from anew."""
        assert state.random is not None
        generator = Generator(int(state.random(state.root, state.begun) * 2**53))
        node = state.root
        while True:
            children = [child for child in node.children if self._may_go_on(state, child)]
            if not children:
                return node
            anew = self._belief(generator, state.drawn.get(node, []))
            beliefs = [self._belief(generator, state.through[child]) for child in children]
            best = max(range(len(children)), key=lambda place: (beliefs[place], -place))
            if anew >= beliefs[best]:
                return node
            node = children[best]

    def _may_go_on(self, state: AbState, node: Node) -> bool:
        return node in state.through and not node.is_final and node.depth < self.max_steps

    def _belief(self, generator: Generator, scores: list[float]) -> float:
        """A draw from what is believed of the next score."""
        if self.posterior == "beta":
            good = sum(min(max(score, 0.0), 1.0) for score in scores)
            return generator.betavariate(0.5 + good, 0.5 + len(scores) - good)
        count = len(scores)
        mean = sum(scores) / count if count else 0.0
        kappa, nu = 1.0 + count, 1.0 + count
        spread = 0.1 + sum((score - mean) ** 2 for score in scores) + count * mean * mean / kappa
        variance = spread / generator.gammavariate(nu / 2, 2.0)
        return generator.gauss(count * mean / kappa, (variance / kappa) ** 0.5)

    def select(self, state: State) -> Selection:
        """Return the answer that all solutions vote for."""
        return choose_among(state, self.aggregate, self.vote)
