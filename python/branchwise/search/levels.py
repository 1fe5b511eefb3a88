"""Search by levels: groups of slots that grow one step, compare, and share their slots among the best branches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from branchwise.answers.vote import VOTES, Vote
from branchwise.scoring.aggregate import AGGREGATES
from branchwise.search.candidates import choose_among, ended, rank
from branchwise.search.options import check_choice, check_count, check_groups
from branchwise.types import Aggregate, Expand, Expanded, Node, Problem, SearchState, Selection


@dataclass(slots=True)
class Group:
    """Slots that share a barrier: a level is over when no child of it is `missing`."""

    missing: int  # children asked for and not yet observed
    arrived: list[Node] = field(default_factory=list)  # children of this level that can go on


@dataclass(slots=True)
class LevelState(SearchState):
    """The groups of a search by levels; `wishes` are the expansions to ask for next."""

    groups: list[Group] = field(default_factory=list)
    wishes: list[Expand] = field(default_factory=list)


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
    uses_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_groups(self.name, self.n, self.expand)
        check_count(self.name, "max_steps", self.max_steps)
        check_choice(self.name, "aggregate", self.aggregate, AGGREGATES)
        check_choice(self.name, "vote", self.vote, VOTES)

    @property
    @abstractmethod
    def group_size(self) -> int:
        """Slots of each group; child i of the root belongs to group i // group_size, and so do its descendants."""

    @property
    def kept(self) -> int:
        """Branches that go on when a level is over, at most: admission reserves a whole path for each."""
        return self.n // self.expand

    def start(self, problem: Problem, root: Node) -> LevelState:
        """Ask for the first level: one expansion of the root for each group."""
        count = self.n // self.group_size
        groups = [Group(missing=self.group_size) for _ in range(count)]
        wishes = [Expand(root, self.group_size) for _ in range(count)]
        return LevelState(problem, root, live={root}, groups=groups, wishes=wishes)

    def propose(self, state: SearchState) -> list[Expand]:
        """Return the next level of every group whose last one is over."""
        assert isinstance(state, LevelState)
        wishes, state.wishes = state.wishes, []
        return wishes

    def observe(self, state: SearchState, results: list[Expanded]) -> None:
        """Collect children; a group whose level is complete shares its slots among the best of them."""
        assert isinstance(state, LevelState)
        for result in results:
            state.live.discard(result.node)
            group = state.groups[result.children[0].lineage_path[0] // self.group_size]
            group.missing -= len(result.children)
            for child in result.children:
                if ended(child, self.max_steps):
                    state.finished.append(child)
                else:
                    state.live.add(child)
                    group.arrived.append(child)
            if group.missing == 0:
                self._next_level(state, group)

    def _next_level(self, state: LevelState, group: Group) -> None:
        ranked = sorted(group.arrived, key=lambda node: rank(node, self.aggregate))
        slots = len(ranked)
        if slots == 0:
            return
        kept = max(1, slots // self.expand)
        each, extra = divmod(slots, kept)
        state.wishes += [Expand(node, each + (place < extra)) for place, node in enumerate(ranked[:kept])]
        state.live.difference_update(ranked[kept:])
        group.missing, group.arrived = slots, []

    def select(self, state: SearchState) -> Selection:
        """Return the answer that `vote` picks among the n finished trajectories."""
        return choose_among(state.finished, self.aggregate, self.vote)
