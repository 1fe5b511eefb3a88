"""Beam search of search-and-learn (Hugging Face), revision 6f81cac."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from branchwise.answers.aggregate import AGGREGATES
from branchwise.answers.vote import VOTES, Vote
from branchwise.strategies.candidates import branch_score, choose_among
from branchwise.strategies.options import check_choice, check_count
from branchwise.strategies.protocol import Action, Ask, Demand, Drop, Limits, Random, Reply, State
from branchwise.types import Aggregate, Node, Problem, Selection


@dataclass(slots=True)
class SlotState(State):
    """n slots, each with the branch it grows; `wishes` are the actions to propose next."""

    slots: list[Node] = field(default_factory=list)
    iteration: int = 0
    missing: int = 0
    arrived: dict[Node, list[Node]] = field(default_factory=dict)  # by what was asked
    kept: list[Node] = field(default_factory=list)  # completed branches, in order
    wishes: list[Action] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SalBeam:
    """The beam search of search-and-learn, as it is.

    n slots; after every step the n // expand best unfinished branches are dealt out to all n slots in turn.

    Kept of the original: finished branches free their slots and the rest is dealt out to n slots again, so that more
    than n may finish and tokens go beyond the budget; survivors in front get one copy more; with n < expand all
    survive; a step cut by its cap counts as finished; a blank step ends its branch; the last of `max_steps` rounds
    writes without a delimiter, to the end of the solution; the first n that finished are candidates (the best n with
    `sort_completed`), repeated in turn where there are fewer.
    """

    n: int = 16
    expand: int = 4
    max_steps: int = field(default=40, kw_only=True)
    aggregate: Aggregate = field(default="last", kw_only=True)
    vote: Vote = field(default="max", kw_only=True)
    filter_duplicates: bool = field(default=False, kw_only=True)
    sort_completed: bool = field(default=False, kw_only=True)
    name: ClassVar[str] = "sal_beam"

    def __post_init__(self) -> None:
        for option in ("n", "expand", "max_steps"):
            check_count(self.name, option, getattr(self, option))
        check_choice(self.name, "aggregate", self.aggregate, AGGREGATES)
        check_choice(self.name, "vote", self.vote, VOTES)

    def demand(self, limits: Limits) -> Demand:
        """n branches."""
        return Demand(self.n, self.n, self.max_steps, scores=True)

    def start(self, problem: Problem, root: Node, random: Random) -> SlotState:
        """Ask for a first step in every slot."""
        state = SlotState(problem, root)
        self._ask(state, [root] * self.n)
        return state

    def propose(self, state: State) -> list[Action]:
        """Return the next step of all slots when every one has its last."""
        assert isinstance(state, SlotState)
        wishes, state.wishes = state.wishes, []
        return wishes

    def observe(self, state: State, replies: list[Reply]) -> None:
        """Collect a round; when it is complete, finish what ended and deal out the rest."""
        assert isinstance(state, SlotState)
        for reply in replies:
            state.arrived[reply.ask.node] = list(reply.nodes)
            state.missing -= len(reply.nodes)
            state.live.discard(reply.ask.node)
            state.live.update(node for node in reply.nodes if not node.is_final)
            if state.missing == 0:
                self._next_round(state)

    def _ask(self, state: SlotState, slots: Sequence[Node]) -> None:
        last = state.iteration == self.max_steps - 1
        state.slots, state.arrived, state.missing = list(slots), {}, len(slots)
        state.wishes += [Ask(node, n, stop=[] if last else None) for node, n in Counter(slots).items()]

    def _next_round(self, state: SlotState) -> None:
        children = [state.arrived[node].pop(0) for node in state.slots]
        state.iteration += 1
        over = state.iteration == self.max_steps
        completed = [node for node in children if node.is_final or not node.text.strip() or over]
        state.kept += completed
        state.finished += completed
        state.live.difference_update(completed)
        active = [node for node in children if node not in completed]
        survivors = self._survivors(active)
        state.wishes += [Drop(node) for node in completed]
        state.wishes += [Drop(node) for node in active if node not in survivors]
        state.live.difference_update(set(active) - set(survivors))
        if survivors:
            self._ask(state, [survivors[place % len(survivors)] for place in range(self.n)])

    def _survivors(self, active: Sequence[Node]) -> list[Node]:
        """The best n // expand in order of their slots."""
        if self.filter_duplicates:
            first: dict[str, Node] = {}
            for node in active:
                first.setdefault(node.branch_text, node)
            active = list(first.values())
        keep = self.n // self.expand or len(active)
        ranked = sorted(range(len(active)), key=lambda place: (-_score(active[place], self.aggregate), place))
        return [active[place] for place in sorted(ranked[:keep])]

    def select(self, state: State) -> Selection:
        """The best score among the candidates, or as `vote` says."""
        assert isinstance(state, SlotState)
        kept = state.kept
        if self.sort_completed:
            kept = sorted(kept, key=lambda node: -_score(node, self.aggregate))
        counts = Counter(kept[place % len(kept)] for place in range(self.n)) if kept else Counter[Node]()
        state.finished = list(counts)
        return choose_among(state, self.aggregate, self.vote, counts)


def _score(node: Node, kind: Aggregate) -> float:
    score = branch_score(node, kind)
    return 0.0 if score is None else score
