"""Search by levels: groups of slots that grow one step, compare, and share their slots among the best branches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from branchwise.answers.aggregate import AGGREGATES
from branchwise.answers.vote import VOTES, Vote
from branchwise.strategies.candidates import choose_among, ended, rank
from branchwise.strategies.options import check_choice, check_count, check_groups
from branchwise.strategies.protocol import Action, Ask, Demand, Drop, Limits, Random, Reply, State
from branchwise.types import Aggregate, Node, Problem, Selection


@dataclass(slots=True)
class Group:
    """Slots that share a barrier: a level is over when no child of it is `missing`."""

    missing: int  # children asked for and not yet observed
    arrived: list[Node] = field(default_factory=list)  # children of this level that can go on


@dataclass(slots=True)
class LevelState(State):
    """The groups of a search by levels; `wishes` are the actions to propose next."""

    groups: list[Group] = field(default_factory=list)
    wishes: list[Action] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LevelSearch(ABC):
    """The rule that beam search (one group of n slots) and DVTS (n / expand groups of `expand` slots) share.

    Every slot grows one trajectory, and exactly n trajectories are finished in the end:
    1. The first level has one child of the root in every slot.
    2. When all children of a level are scored, those that ended (end of sequence, a step cut by its token cap, or step
       `max_steps`) are finished. They keep their slots: no branch takes their place, and none of them is ever pruned.
    3. The other s children compete for the s slots that are left: the best max(1, s // expand) are kept, the rest is
       pruned. Each kept branch gets s // kept children, and the best `s % kept` get one more.
    4. The search ends when all slots are finished. `vote` chooses among the n trajectories.

    One aggregate serves pruning and the final pick. Ties: higher score first, then smaller lineage path.
    """

    n: int = 16
    expand: int = 4
    aggregate: Aggregate = "last"
    max_steps: int = 40
    vote: Vote = "weighted"
    name: ClassVar[str] = "levels"

    def __post_init__(self) -> None:
        check_groups(self.name, self.n, self.expand)
        check_count(self.name, "max_steps", self.max_steps)
        check_choice(self.name, "aggregate", self.aggregate, AGGREGATES)
        check_choice(self.name, "vote", self.vote, VOTES)

    @property
    @abstractmethod
    def group_size(self) -> int:
        """Slots of each group; child i of the root belongs to group i // group_size, and so do its descendants."""

    def demand(self, limits: Limits) -> Demand:
        """A whole path for each branch that is kept when a level is over, and one step for each of the n."""
        return Demand(self.n, self.n // self.expand, self.max_steps, scores=True)

    def start(self, problem: Problem, root: Node, random: Random) -> LevelState:
        """Ask for the first level: one expansion of the root for each group, which is a lane of its own."""
        count = self.n // self.group_size
        groups = [Group(missing=self.group_size) for _ in range(count)]
        wishes: list[Action] = [Ask(root, self.group_size, lane=lane) for lane in range(count)]
        return LevelState(problem, root, groups=groups, wishes=wishes)

    def propose(self, state: State) -> list[Action]:
        """Return the next level of every group whose last one is over, and what it gave up."""
        assert isinstance(state, LevelState)
        wishes, state.wishes = state.wishes, []
        return wishes

    def observe(self, state: State, replies: list[Reply]) -> None:
        """Collect children; a group whose level is complete shares its slots among the best of them."""
        assert isinstance(state, LevelState)
        for reply in replies:
            state.live.discard(reply.ask.node)
            lane = reply.nodes[0].lineage_path[0] // self.group_size
            group = state.groups[lane]
            group.missing -= len(reply.nodes)
            for child in reply.nodes:
                if ended(child, self.max_steps):
                    state.finished.append(child)
                    state.wishes.append(Drop(child))
                else:
                    state.live.add(child)
                    group.arrived.append(child)
            if group.missing == 0:
                self._next_level(state, group, lane)

    def _next_level(self, state: LevelState, group: Group, lane: int) -> None:
        ranked = sorted(group.arrived, key=lambda node: rank(node, self.aggregate))
        slots = len(ranked)
        if slots == 0:
            return
        kept = max(1, slots // self.expand)
        each, extra = divmod(slots, kept)
        state.wishes += [Ask(node, each + (place < extra), lane=lane) for place, node in enumerate(ranked[:kept])]
        state.wishes += [Drop(node) for node in ranked[kept:]]
        state.live.difference_update(ranked[kept:])
        group.missing, group.arrived = slots, []

    def select(self, state: State) -> Selection:
        """Return the answer that `vote` picks among the n finished trajectories."""
        return choose_among(state, self.aggregate, self.vote)
