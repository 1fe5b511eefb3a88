"""Beam search of its_hub (Red Hat), release 1.2.0."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from branchwise.answers.vote import VOTES, Vote
from branchwise.strategies.candidates import choose_among
from branchwise.strategies.options import check_choice, check_count, check_groups
from branchwise.strategies.protocol import Action, Ask, Demand, Drop, Limits, Random, Reply, State
from branchwise.types import Node, Problem, Selection


@dataclass(slots=True)
class Path:
    """A branch with the number of its steps: one whose model has ended goes on with blank ones."""

    node: Node
    steps: int = 0
    stopped: bool = False


@dataclass(slots=True)
class PathState(State):
    """The population; `wishes` are the actions to propose next."""

    paths: list[Path] = field(default_factory=list)
    arrived: dict[Node, list[Node]] = field(default_factory=dict)
    missing: int = 0
    wishes: list[Action] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ItsBeam:
    """The beam search of its_hub, as it is.

    The `keep` best of all branches are each copied n / keep times after every step; equal copies part by chance.

    Kept of the original: the first level has n / keep branches, so that n == keep grows one branch alone; stopped
    branches stay in the population and are copied like the others; a branch stops when `stop_token` is in its step, or
    with step max_steps + 1; the end of a solution without the token is not noticed (its model is called again and
    again, for nothing); the best score wins, the first of equal ones.
    """

    n: int = 16
    keep: int = 4
    max_steps: int = field(default=40, kw_only=True)
    stop_token: str = field(default="\\boxed", kw_only=True)
    vote: Vote = field(default="max", kw_only=True)
    name: ClassVar[str] = "its_beam"

    def __post_init__(self) -> None:
        check_count(self.name, "keep", self.keep)
        check_groups(self.name, self.n, self.keep)
        check_count(self.name, "max_steps", self.max_steps)
        check_choice(self.name, "vote", self.vote, VOTES)

    def demand(self, limits: Limits) -> Demand:
        """n branches, one step longer than `max_steps`."""
        return Demand(self.n, self.n, self.max_steps + 1, scores=True)

    def start(self, problem: Problem, root: Node, random: Random) -> PathState:
        """Ask for the first steps: n / keep of them."""
        state = PathState(problem, root)
        self._go_on(state, [Path(root) for _ in range(self.n // self.keep)])
        return state

    def propose(self, state: State) -> list[Action]:
        """Return the next step of every branch that runs."""
        assert isinstance(state, PathState)
        wishes, state.wishes = state.wishes, []
        return wishes

    def observe(self, state: State, replies: list[Reply]) -> None:
        """Collect a step of every branch that runs; then keep the best."""
        assert isinstance(state, PathState)
        for reply in replies:
            state.arrived[reply.ask.node] = list(reply.nodes)
            state.missing -= len(reply.nodes)
            state.live.discard(reply.ask.node)
            state.live.update(reply.nodes)
            if state.missing == 0:
                self._next_level(state)

    def _go_on(self, state: PathState, paths: list[Path]) -> None:
        state.paths, state.arrived = paths, {}
        asked = Counter(path.node for path in paths if not path.stopped and not path.node.is_final)
        state.missing = asked.total()
        state.wishes += [Ask(node, n) for node, n in asked.items()]

    def _next_level(self, state: PathState) -> None:
        """As often as nobody has to wait for a step."""
        while state.missing == 0:
            grown = [self._grown(state, path) for path in state.paths]
            ranked = sorted(grown, key=lambda path: -_value(path.node))
            if all(path.stopped for path in grown):
                self._end(state, grown)
                return
            kept = ranked[: self.keep]
            self._forget(state, {path.node for path in kept})
            self._go_on(
                state, [Path(path.node, path.steps, path.stopped) for _ in range(self.n // self.keep) for path in kept]
            )

    def _grown(self, state: PathState, path: Path) -> Path:
        if path.stopped:
            return path
        node = path.node if path.node.is_final else state.arrived[path.node].pop(0)
        stopped = path.steps >= self.max_steps or self.stop_token in (node.text if node is not path.node else "")
        return Path(node, path.steps + 1, stopped)

    def _forget(self, state: PathState, kept: set[Node]) -> None:
        gone = sorted(state.live - kept, key=lambda node: node.lineage_path)
        state.wishes += [Drop(node) for node in gone]
        state.live.difference_update(gone)

    def _end(self, state: PathState, paths: Sequence[Path]) -> None:
        state.paths = list(paths)
        state.finished = list(dict.fromkeys(path.node for path in paths))
        self._forget(state, set())

    def select(self, state: State) -> Selection:
        """The best score of all branches, copies among them, or as `vote` says."""
        assert isinstance(state, PathState)
        return choose_among(state, "last", self.vote, Counter(path.node for path in state.paths))


def _value(node: Node) -> float:
    return 0.0 if node.score is None else node.score
