"""Beam search of compute-optimal-tts, revision 0ee2578 (its `SearchTree.beam_search`, after OpenR)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from branchwise.answers.vote import VOTES, Vote
from branchwise.strategies.candidates import choose_among
from branchwise.strategies.options import check_choice, check_count, check_groups
from branchwise.strategies.protocol import Action, Ask, Demand, Drop, Limits, Random, Reply, State
from branchwise.types import Node, Problem, Selection

RETRIES = 3


@dataclass(slots=True)
class FrontierState(State):
    """The nodes of this round; `wishes` are the actions to propose next."""

    frontier: list[Node] = field(default_factory=list)
    children: dict[Node, list[Node]] = field(default_factory=dict)
    ends: list[Node] = field(default_factory=list)  # in the order in which they were popped
    over: set[Node] = field(default_factory=set)  # terminated
    tries: dict[Node, int] = field(default_factory=dict)
    missing: int = 0
    rounds: int = 0
    wishes: list[Action] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CottsBeam:
    """The beam search of compute-optimal-tts, as it is.

    n first steps; then K = n / expand branches with `expand` samples each, until K of them have ended.

    Kept of the original: K answers are returned, not n, and the search ends with the K-th; ended branches compete by
    score until they are popped; of the children of a node those that were cut by a cap, are blank or say what an
    earlier one says are thrown away, and a node without any is tried again up to three times, then ended (the root
    takes what comes in the end); "boxed" in a step, or depth `max_steps`, ends a branch; a branch is worth its last
    score, 0 without one.
    """

    n: int = 16
    expand: int = 4
    max_steps: int = field(default=40, kw_only=True)
    vote: Vote = field(default="weighted", kw_only=True)
    name: ClassVar[str] = "cotts_beam"

    def __post_init__(self) -> None:
        check_groups(self.name, self.n, self.expand)
        check_count(self.name, "max_steps", self.max_steps)
        check_choice(self.name, "vote", self.vote, VOTES)

    @property
    def keep(self) -> int:
        """K, branches and answers."""
        return self.n // self.expand

    def demand(self, limits: Limits) -> Demand:
        """n children at once, of K branches."""
        return Demand(self.n, self.keep, self.max_steps, scores=True)

    def start(self, problem: Problem, root: Node, random: Random) -> FrontierState:
        """Ask for n first steps."""
        state = FrontierState(problem, root, frontier=[root])
        self._ask(state, root)
        return state

    def propose(self, state: State) -> list[Action]:
        """Return the samples of every surviving branch."""
        assert isinstance(state, FrontierState)
        wishes, state.wishes = state.wishes, []
        return wishes

    def observe(self, state: State, replies: list[Reply]) -> None:
        """Collect samples, try again where none was of use; when all are there, the best survive."""
        assert isinstance(state, FrontierState)
        for reply in replies:
            state.missing -= 1
            self._take(state, reply)
            if state.missing == 0:
                self._next_round(state)

    def _ask(self, state: FrontierState, node: Node) -> None:
        state.missing += 1
        state.tries[node] = state.tries.get(node, 0) + 1
        state.wishes.append(Ask(node, self.n if node is state.root else self.expand))

    def _take(self, state: FrontierState, reply: Reply) -> None:
        node, last = reply.ask.node, state.tries[reply.ask.node] > RETRIES
        known: set[str] = set()
        useful = []
        for child in reply.nodes:
            takes_any = node is state.root and last
            if (child.finish != "length" and child.text.strip() and child.text.strip() not in known) or takes_any:
                useful.append(child)
                known.add(child.text.strip())
            else:
                state.wishes.append(Drop(child))
        state.live.discard(node)
        state.live.update(useful)
        if useful:
            state.children[node] = useful
        elif not last:
            self._ask(state, node)
        else:
            state.over.add(node)

    def _next_round(self, state: FrontierState) -> None:
        """Pop what has ended; the best children of the rest are the next frontier. Goes on while nothing is asked."""
        while state.missing == 0 and state.rounds <= self.max_steps:
            state.rounds += 1
            room = self.keep - len(state.ends)
            pushed: list[Node] = []
            for node in state.frontier:
                if node in state.over:
                    state.ends.append(node)
                    state.finished.append(node)
                    room -= 1
                elif room > 0:
                    ranked = sorted(state.children[node], key=lambda child: (-_value(child), child.index))
                    pushed += ranked[:room]
            if not room:
                break
            state.frontier = sorted(pushed, key=lambda child: (-_value(child), child.lineage_path))[:room]
            for node in state.frontier:
                if node.finish != "stop" or "\\boxed" in node.text or node.depth >= self.max_steps:
                    state.over.add(node)
                else:
                    self._ask(state, node)
        self._forget(state)

    def _forget(self, state: FrontierState) -> None:
        """Drop what can come up no more: neither in the frontier nor an end."""
        kept = {*state.frontier, *state.ends}
        if state.missing == 0:
            kept = {*state.ends}
        gone = sorted(state.live - kept, key=lambda node: node.lineage_path)
        state.wishes += [Drop(node) for node in gone]
        state.live.difference_update(gone)
        if state.missing == 0:
            state.wishes += [Drop(node) for node in state.ends]
            state.live.clear()

    def select(self, state: State) -> Selection:
        """Return the answer that `vote` picks among at most K branches that ended."""
        assert isinstance(state, FrontierState)
        state.live.difference_update(state.finished)
        return choose_among(state, "last", self.vote)


def _value(node: Node) -> float:
    return 0.0 if node.score is None else node.score
