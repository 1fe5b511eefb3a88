"""Diverse verifier tree search of search-and-learn (Hugging Face), revision 6f81cac."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from branchwise.answers.aggregate import AGGREGATES
from branchwise.answers.vote import VOTES, Vote
from branchwise.strategies.candidates import branch_score, choose_among
from branchwise.strategies.options import check_choice, check_count, check_groups, check_whole
from branchwise.strategies.protocol import Action, Ask, Demand, Drop, Limits, Random, Reply, State
from branchwise.types import Aggregate, Node, Problem, Sampling, Selection


@dataclass(slots=True)
class Subtree:
    """One beam: the options of its last step, and where a look ahead from each has led."""

    options: list[Node] = field(default_factory=list)
    ahead: dict[Node, Node] = field(default_factory=dict)
    missing: int = 0
    steps: int = 0


@dataclass(slots=True)
class SubtreeState(State):
    """The subtrees; `wishes` are the actions to propose next."""

    subtrees: list[Subtree] = field(default_factory=list)
    wishes: list[Action] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SalDvts:
    """The DVTS of search-and-learn, as it is.

    n / expand beams; each writes `expand` options for its next step and goes on with the best.

    Kept of the original: an option is judged by where `lookahead` greedy steps lead; a beam ends with a blank step, the
    end of the solution, or "boxed{" in its step; its budget goes to nobody else; all `expand` options of its last step
    are candidates, also those it did not take; the last of `max_steps` rounds writes without a delimiter.
    """

    n: int = 16
    expand: int = 4
    lookahead: int = field(default=0, kw_only=True)
    max_steps: int = field(default=40, kw_only=True)
    aggregate: Aggregate = field(default="last", kw_only=True)
    vote: Vote = field(default="max", kw_only=True)
    name: ClassVar[str] = "sal_dvts"

    def __post_init__(self) -> None:
        check_groups(self.name, self.n, self.expand)
        check_count(self.name, "max_steps", self.max_steps)
        check_whole(self.name, "lookahead", self.lookahead, 0)
        check_choice(self.name, "aggregate", self.aggregate, AGGREGATES)
        check_choice(self.name, "vote", self.vote, VOTES)

    def demand(self, limits: Limits) -> Demand:
        """The options of all beams, and what lies ahead of them."""
        return Demand(self.n, self.n // self.expand, self.max_steps + self.lookahead, scores=True)

    def start(self, problem: Problem, root: Node, random: Random) -> SubtreeState:
        """Ask for the first options of every beam."""
        state = SubtreeState(problem, root, subtrees=[Subtree() for _ in range(self.n // self.expand)])
        for lane in range(len(state.subtrees)):
            self._ask(state, root, lane)
        return state

    def propose(self, state: State) -> list[Action]:
        """Return the next options of every beam that has chosen, and looks ahead."""
        assert isinstance(state, SubtreeState)
        wishes, state.wishes = state.wishes, []
        return wishes

    def observe(self, state: State, replies: list[Reply]) -> None:
        """Collect options and where they lead; a beam that knows all of them chooses."""
        assert isinstance(state, SubtreeState)
        for reply in replies:
            lane = reply.ask.lane
            assert isinstance(lane, int)
            beam = state.subtrees[lane]
            beam.missing -= len(reply.nodes)
            if reply.ask.node in beam.options:
                (beam.ahead[reply.ask.node],) = reply.nodes
            else:
                self._take(state, beam, reply, lane)
            if beam.missing == 0:
                self._choose(state, beam, lane)

    def _ask(self, state: SubtreeState, node: Node, lane: int) -> None:
        beam = state.subtrees[lane]
        beam.options, beam.ahead, beam.missing = [], {}, self.expand
        beam.steps += 1
        stop: list[str] | None = [] if beam.steps == self.max_steps else None
        state.wishes.append(Ask(node, self.expand, stop=stop, lane=lane))

    def _take(self, state: SubtreeState, beam: Subtree, reply: Reply, lane: int) -> None:
        beam.options = list(reply.nodes)
        state.live.discard(reply.ask.node)
        for node in reply.nodes:
            if not node.is_final:
                state.live.add(node)
                if self.lookahead:
                    beam.missing += 1
                    greedy = Sampling(temperature=0.0)
                    state.wishes.append(Ask(node, 1, steps=self.lookahead, sampling=greedy, score="last", lane=lane))

    def _choose(self, state: SubtreeState, beam: Subtree, lane: int) -> None:
        def worth(node: Node) -> float:
            score = branch_score(beam.ahead.get(node, node), self.aggregate)
            return 0.0 if score is None else score

        best = max(beam.options, key=lambda node: (worth(node), -node.index))
        over = best.is_final or not best.text.strip() or "boxed{" in best.text or beam.steps == self.max_steps
        ahead = [Drop(end.path[node.depth]) for node, end in beam.ahead.items() if over or node is best]
        if over:
            state.finished += beam.options
            state.wishes += [*ahead, *(Drop(node) for node in beam.options if node not in beam.ahead)]
            state.live.difference_update(beam.options)
            return
        state.live.difference_update(node for node in beam.options if node is not best)
        state.wishes += [Drop(node) for node in beam.options if node is not best]
        self._ask(state, best, lane)
        state.wishes += ahead

    def select(self, state: State) -> Selection:
        """The best score among the last options of every beam, or as `vote` says."""
        return choose_among(state, self.aggregate, self.vote)
