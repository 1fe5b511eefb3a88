"""Monte Carlo tree search: every rollout goes where value and curiosity are largest, to the end of a solution."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from branchwise.answers.aggregate import AGGREGATES
from branchwise.answers.vote import VOTES, Vote
from branchwise.strategies.candidates import branch_score, choose_among, ended
from branchwise.strategies.options import check_choice, check_count, check_number
from branchwise.strategies.protocol import Action, Ask, Demand, Drop, Limits, Random, Reply, State
from branchwise.types import Aggregate, Node, Problem, Selection

Rule = Literal["puct", "uct"]
PUCT_BASE, PUCT_INIT = 19652, 1.25  # of AlphaZero


@dataclass(slots=True)
class Arm:
    """What is known of a node: how often rollouts went there, and what they were worth."""

    value: float  # the judge's
    prior: float  # share of the policy's probability among its siblings
    visits: int = 0  # rollouts under way among them
    returned: int = 0
    worth: float = 0.0  # sum over those that returned
    open: bool = True  # some end below it was not visited

    @property
    def mean(self) -> float:
        """The judge's value until a rollout has returned."""
        return self.worth / self.returned if self.returned else self.value


@dataclass(slots=True)
class MctsState(State):
    """The tree's statistics; `waiting`: rollouts that wait for the children of a node, by number."""

    arms: dict[Node, Arm] = field(default_factory=dict)
    waiting: dict[Node, int] = field(default_factory=dict)
    begun: int = 0  # rollouts
    wishes: list[Action] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class MCTS:
    """Monte Carlo tree search of n rollouts, guided by the judge.

    Each goes down from the root, to the child with the largest

        puct:  Q + P * (log((V + 19653) / 19652) + 1.25) * sqrt(V) / (1 + v)
        uct:   Q + exploration * sqrt(log(1 + V) / (1 + v))

    gives a node without children `expand` of them, which the judge values, and goes on to the end of a solution, whose
    score is added to every node on its path. V, v: visits of node and child; Q: mean of what came back, the judge's
    value before anything has; P: probability of the step per token, among its siblings. An end is visited once, and
    what has no other below it is closed.

    parallel: rollouts under way at once; those under way count as visits, so that they part.
    Source: the search of OpenR (`vanila_mcts`) and AlphaZero's rule; UCT of Kocsis and Szepesvari.
    """

    n: int = 16
    expand: int = field(default=4, kw_only=True)
    rule: Rule = field(default="puct", kw_only=True)
    exploration: float = field(default=1.4, kw_only=True)
    parallel: int = field(default=4, kw_only=True)
    aggregate: Aggregate = field(default="last", kw_only=True)
    max_steps: int = field(default=40, kw_only=True)
    vote: Vote = field(default="weighted", kw_only=True)
    name: ClassVar[str] = "mcts"

    def __post_init__(self) -> None:
        for option in ("n", "expand", "parallel", "max_steps"):
            check_count(self.name, option, getattr(self, option))
        check_choice(self.name, "rule", self.rule, ("puct", "uct"))
        check_number(self.name, "exploration", self.exploration, 0, 1000)
        check_choice(self.name, "aggregate", self.aggregate, AGGREGATES)
        check_choice(self.name, "vote", self.vote, VOTES)

    def demand(self, limits: Limits) -> Demand:
        """The children of every rollout under way; every node that may be gone on with is kept."""
        most = self.expand * min(self.parallel, self.n)
        return Demand(most, most, self.max_steps, scores=True)

    def start(self, problem: Problem, root: Node, random: Random) -> MctsState:
        """Begin the first rollouts, which all wait for the children of the root."""
        state = MctsState(problem, root, arms={root: Arm(0.0, 1.0)})
        self._begin(state)
        return state

    def propose(self, state: State) -> list[Action]:
        """Return the expansions that rollouts wait for, and ends that were visited."""
        assert isinstance(state, MctsState)
        wishes, state.wishes = state.wishes, []
        return wishes

    def observe(self, state: State, replies: list[Reply]) -> None:
        """Value new children and let the rollouts go on that waited for them."""
        assert isinstance(state, MctsState)
        for reply in replies:
            self._add(state, reply)
            for _ in range(state.waiting.pop(reply.ask.node)):
                self._go_down(state, reply.ask.node)
            self._begin(state)
        if not state.waiting:  # all rollouts are over
            state.live.clear()
            state.wishes += [Drop(child) for child in state.root.children]

    def _add(self, state: MctsState, reply: Reply) -> None:
        likely = [math.exp(node.logprob / max(1, len(node.tokens))) for node in reply.nodes]
        for node, each in zip(reply.nodes, likely, strict=True):
            value = branch_score(node, self.aggregate)
            state.arms[node] = Arm(0.0 if value is None else value, each / math.fsum(likely))
            state.live.add(node)
        state.live.discard(reply.ask.node)

    def _begin(self, state: MctsState) -> None:
        """Start rollouts while there is room for them and something is left to find."""
        while state.begun < self.n and sum(state.waiting.values()) < self.parallel and state.arms[state.root].open:
            state.begun += 1
            self._go_down(state, state.root)

    def _go_down(self, state: MctsState, node: Node) -> None:
        """Take a rollout from a node to the next one that has no children, or to its end."""
        while True:
            if not state.arms[node].open:  # others have found all that is below
                state.begun -= 1
                self._take_back(state, node)
                return
            if node.is_final or (node is not state.root and ended(node, self.max_steps)):
                self._return(state, node)
                return
            children = [child for child in node.children if child in state.arms]
            if not children:
                self._wait(state, node)
                return
            node = self._choose(state, node, [child for child in children if state.arms[child].open])
            state.arms[node].visits += 1

    def _wait(self, state: MctsState, node: Node) -> None:
        if node not in state.waiting:
            state.wishes.append(Ask(node, self.expand))
        state.waiting[node] = state.waiting.get(node, 0) + 1

    def _choose(self, state: MctsState, parent: Node, children: list[Node]) -> Node:
        visits = sum(state.arms[child].visits for child in parent.children if child in state.arms)

        def bound(child: Node) -> float:
            arm = state.arms[child]
            if self.rule == "uct":
                return arm.mean + self.exploration * math.sqrt(math.log(1 + visits) / (1 + arm.visits))
            weight = math.log((visits + PUCT_BASE + 1) / PUCT_BASE) + PUCT_INIT
            return arm.mean + arm.prior * weight * math.sqrt(visits) / (1 + arm.visits)

        return max(children, key=lambda child: (bound(child), -child.index))

    def _return(self, state: MctsState, end: Node) -> None:
        """A rollout has come to its end: what that is worth counts all the way up."""
        worth = state.arms[end].value
        state.finished.append(end)
        state.live.discard(end)
        state.arms[end].open = False
        for node in (*end.path, state.root):
            state.arms[node].returned += 1
            state.arms[node].worth += worth
        for node in reversed((state.root, *end.path[:-1])):
            state.arms[node].open = any(state.arms[child].open for child in node.children if child in state.arms)

    def _take_back(self, state: MctsState, node: Node) -> None:
        """A rollout that has nowhere to go was never begun."""
        for each in node.path:
            state.arms[each].visits -= 1

    def select(self, state: State) -> Selection:
        """Return the answer that the ends of all rollouts vote for."""
        return choose_among(state, self.aggregate, self.vote)
