"""Search by levels: groups of slots that grow, compare, and share their slots among the best branches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from branchwise.answers.aggregate import AGGREGATES
from branchwise.answers.vote import VOTES, Vote
from branchwise.strategies.candidates import choose_among, ended, rank
from branchwise.strategies.options import check_choice, check_count, check_whole
from branchwise.strategies.protocol import Action, Ask, Demand, Drop, Limits, Random, Reply, State
from branchwise.types import Aggregate, Node, Problem, Sampling, Selection

Duplicates = Literal["keep", "last", "drop"]
DUPLICATES = ("keep", "last", "drop")
GREEDY = Sampling(temperature=0.0)


@dataclass(slots=True)
class Group:
    """Slots that share a barrier: a level is over when nothing of it is `missing`."""

    missing: int  # replies' nodes asked for and not yet observed, children and looks ahead
    arrived: list[Node] = field(default_factory=list)  # children of this level that can go on
    ahead: dict[Node, Node] = field(default_factory=dict)  # where each child's look ahead ended


@dataclass(slots=True)
class LevelState(State):
    """The groups of a search by levels; `wishes` are the actions to propose next."""

    groups: list[Group] = field(default_factory=list)
    wishes: list[Action] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LevelSearch(ABC):
    """The rule that beam search, DVTS and REBASE share.

    Every slot grows one trajectory, and exactly n trajectories are finished in the end:
    1. The first level has one child of the root in every slot.
    2. When all children of a level are scored, those that ended (end of sequence, a step cut by its token cap, or step
       `max_steps`) are finished. They keep their slots: no branch takes their place, and none of them is ever pruned.
    3. The other s children compete for the s slots that are left: `share` says how many children each of them gets;
       those that get none are pruned.
    4. The search ends when all slots are finished. `vote` chooses among the n trajectories.

    One aggregate serves pruning and the final pick. Ties: higher score first, then smaller lineage path.

    every       steps between two comparisons; only the last of them is judged (Chen et al., Rethinking Optimal
                Verification Granularity, arXiv 2505.11730)
    lookahead   a child is compared by where so many further steps at temperature 0 lead, which are then dropped
                (Snell et al., arXiv 2408.03314)
    duplicates  branches of equal text: "keep" treats them as any other, "last" ranks all but the first behind the rest,
                "drop" gives them no children. `State.equal` counts those that went on beside an equal one
    """

    n: int = 16
    aggregate: Aggregate = field(default="last", kw_only=True)
    max_steps: int = field(default=40, kw_only=True)
    vote: Vote = field(default="weighted", kw_only=True)
    every: int = field(default=1, kw_only=True)
    lookahead: int = field(default=0, kw_only=True)
    duplicates: Duplicates = field(default="keep", kw_only=True)
    name: ClassVar[str] = "levels"

    def __post_init__(self) -> None:
        for option in ("n", "max_steps", "every"):
            check_count(self.name, option, getattr(self, option))
        check_whole(self.name, "lookahead", self.lookahead, 0)
        check_choice(self.name, "aggregate", self.aggregate, AGGREGATES)
        check_choice(self.name, "vote", self.vote, VOTES)
        check_choice(self.name, "duplicates", self.duplicates, DUPLICATES)

    @property
    @abstractmethod
    def group_size(self) -> int:
        """Slots of each group; child i of the root belongs to group i // group_size, and so do its descendants."""

    @abstractmethod
    def share(self, ranked: Sequence[Node], heads: Sequence[Node], slots: int) -> list[int]:
        """How many children each branch gets: `slots` in all.

        ranked: best first    heads: by whose scores each was ranked: itself, or where its look ahead ended
        """

    def demand(self, limits: Limits) -> Demand:
        """A whole path for each of the n: any number of them may end early."""
        return Demand(self.n, self.n, self.max_steps, scores=True)

    def start(self, problem: Problem, root: Node, random: Random) -> LevelState:
        """Ask for the first level: one expansion of the root for each group, which is a lane of its own."""
        count = self.n // self.group_size
        groups = [Group(missing=self.group_size) for _ in range(count)]
        state = LevelState(problem, root, groups=groups)
        state.wishes += [self._ask(root, self.group_size, lane) for lane in range(count)]
        return state

    def propose(self, state: State) -> list[Action]:
        """Return the next level of every group whose last one is over, and what it gave up."""
        assert isinstance(state, LevelState)
        wishes, state.wishes = state.wishes, []
        return wishes

    def observe(self, state: State, replies: list[Reply]) -> None:
        """Collect children and where they lead; a group whose level is complete shares its slots."""
        assert isinstance(state, LevelState)
        for reply in replies:
            lane = reply.ask.lane
            assert isinstance(lane, int)
            group = state.groups[lane]
            group.missing -= len(reply.nodes)
            if reply.ask.node in group.arrived:
                (group.ahead[reply.ask.node],) = reply.nodes
            else:
                self._take(state, group, reply, lane)
            if group.missing == 0:
                self._next_level(state, group, lane)

    def _take(self, state: LevelState, group: Group, reply: Reply, lane: int) -> None:
        state.live.discard(reply.ask.node)
        for child in reply.nodes:
            if ended(child, self.max_steps):
                state.finished.append(child)
                state.wishes.append(Drop(child))
                continue
            state.live.add(child)
            group.arrived.append(child)
            if self.lookahead:
                group.missing += 1
                steps = min(self.lookahead, self.max_steps - child.depth)
                state.wishes.append(Ask(child, 1, steps=steps, sampling=GREEDY, score="last", lane=lane))

    def _next_level(self, state: LevelState, group: Group, lane: int) -> None:
        ranked = sorted(group.arrived, key=lambda node: self._rank(group, node))
        slots = len(ranked)
        if not slots:
            return
        first, equal = _first_of_equals(ranked)
        if self.duplicates != "keep":
            ranked = first + (equal if self.duplicates == "last" else [])
        shares = self.share(ranked, [group.ahead.get(node, node) for node in ranked], slots)
        going = {node: n for node, n in zip(ranked, shares, strict=True) if n}
        state.equal += len(_first_of_equals(list(going))[1])
        state.wishes += [self._ask(node, n, lane) for node, n in going.items()]
        state.wishes += [Drop(_first_ahead(node, group.ahead[node])) for node in going if node in group.ahead]
        state.wishes += [Drop(node) for node in group.arrived if node not in going]
        state.live.difference_update(node for node in group.arrived if node not in going)
        group.missing, group.arrived, group.ahead = slots, [], {}

    def _rank(self, group: Group, node: Node) -> tuple[float, tuple[int, ...]]:
        score, _ = rank(group.ahead.get(node, node), self.aggregate)
        return score, node.lineage_path

    def _ask(self, node: Node, n: int, lane: int) -> Ask:
        steps = min(self.every, self.max_steps - node.depth)
        return Ask(node, n, steps=steps, score="last" if self.every > 1 else None, lane=lane)

    def select(self, state: State) -> Selection:
        """Return the answer that `vote` picks among the n finished trajectories."""
        return choose_among(state, self.aggregate, self.vote)


def _first_of_equals(ranked: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """The first branch of each text, and the others."""
    known: dict[str, Node] = {}
    for node in ranked:
        known.setdefault(node.branch_text, node)
    first = list(known.values())
    kept = set(first)
    return first, [node for node in ranked if node not in kept]


def _first_ahead(child: Node, end: Node) -> Node:
    """The first step of a look ahead."""
    return end.path[child.depth]
