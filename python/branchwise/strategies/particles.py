"""Particle filtering and particle Gibbs: branches are samples of good solutions, resampled by their scores."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import ClassVar, Literal

from branchwise.answers.aggregate import AGGREGATES
from branchwise.answers.vote import VOTES, Vote
from branchwise.errors import ConfigError
from branchwise.strategies.candidates import branch_score, choose_among, ended
from branchwise.strategies.options import check_choice, check_count, check_number, check_whole
from branchwise.strategies.protocol import Action, Ask, Demand, Drop, Limits, Random, Reply, State
from branchwise.types import Aggregate, Node, Problem, Selection

Resample = Literal["multinomial", "systematic"]
LEAST_SCORE = 1e-7  # scores are kept so far from 0 and 1: their logits are finite


@dataclass(slots=True)
class ParticleState(State):
    """The particles of one iteration; `wishes` are the actions to propose next."""

    random: Random | None = None
    level: int = 0  # steps of this iteration that are done
    draws: int = 0  # random numbers taken
    iteration: int = 0
    missing: int = 0  # children asked for and not yet observed
    arrived: list[Node] = field(default_factory=list)  # particles that have just made a step
    stopped: Counter[Node] = field(default_factory=Counter)  # particles that have ended, with their copies
    references: list[Node] = field(default_factory=list)  # ends of the trajectories that this iteration is given
    totals: Counter[Node] = field(default_factory=Counter)  # particles that ended, of all iterations
    held: set[Node] = field(default_factory=set)  # ended nodes that were not dropped
    wishes: list[Action] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ParticleFilter:
    """n particles make a step each, and are drawn anew by their scores.

    They are weighed by score / (1 - score) of their branch. A particle that has ended keeps its weight and is drawn
    like any other. In the end the particles vote, every copy.

    resample  "systematic" has less variance than "multinomial"
    ess       particles are drawn anew when the effective sample size 1 / sum(p^2) falls below this share of n

    Sources: Puri et al., A Probabilistic Inference Approach to Inference-Time Scaling, arXiv 2502.01618, and its_hub,
    whose weights these are: the newest score takes the place of the old one.
    """

    n: int = 16
    aggregate: Aggregate = field(default="last", kw_only=True)
    max_steps: int = field(default=40, kw_only=True)
    vote: Vote = field(default="weighted", kw_only=True)
    resample: Resample = field(default="systematic", kw_only=True)
    ess: float = field(default=1.0, kw_only=True)
    name: ClassVar[str] = "particles"

    def __post_init__(self) -> None:
        check_count(self.name, "n", self.n)
        check_count(self.name, "max_steps", self.max_steps)
        check_choice(self.name, "aggregate", self.aggregate, AGGREGATES)
        check_choice(self.name, "vote", self.vote, VOTES)
        check_choice(self.name, "resample", self.resample, ("multinomial", "systematic"))
        check_number(self.name, "ess", self.ess, 0, 1)

    @property
    def per_iteration(self) -> int:
        """Particles of an iteration, references among them."""
        return self.n

    def demand(self, limits: Limits) -> Demand:
        """A path for each particle."""
        return Demand(self.n, self.n, self.max_steps, scores=True)

    def start(self, problem: Problem, root: Node, random: Random) -> ParticleState:
        """Ask for the first step of every particle."""
        state = ParticleState(problem, root, random=random)
        self._ask(state, Counter({root: self.per_iteration}))
        return state

    def propose(self, state: State) -> list[Action]:
        """Return the next step of all particles when every one has made its last."""
        assert isinstance(state, ParticleState)
        wishes, state.wishes = state.wishes, []
        return wishes

    def observe(self, state: State, replies: list[Reply]) -> None:
        """Collect steps; when all have come, draw the particles anew."""
        assert isinstance(state, ParticleState)
        for reply in replies:
            state.live.discard(reply.ask.node)
            state.missing -= len(reply.nodes)
            state.arrived += reply.nodes
            for node in reply.nodes:
                if ended(node, self.max_steps):
                    state.finished.append(node)
                    state.held.add(node)
                else:
                    state.live.add(node)
            if state.missing == 0:
                self._next_step(state)

    def _next_step(self, state: ParticleState) -> None:
        state.level += 1
        own = [*state.arrived, *state.stopped.elements()]
        given = [end.path[min(state.level, end.depth) - 1] for end in state.references]
        chosen = Counter(self._drawn(state, [*own, *given], len(own)) if self._uneven([*own, *given]) else own)
        for node in {*own} - {*chosen}:
            self._discard(state, node)
        state.arrived = []
        state.stopped = Counter({node: n for node, n in chosen.items() if ended(node, self.max_steps)})
        going = Counter({node: n for node, n in chosen.items() if node not in state.stopped})
        if going:
            self._ask(state, going)
        else:
            self._end_iteration(state)

    def _ask(self, state: ParticleState, going: Counter[Node]) -> None:
        in_order = sorted(going, key=lambda node: node.lineage_path)
        state.wishes += [Ask(node, going[node]) for node in in_order]
        state.missing = going.total()

    def _uneven(self, nodes: Sequence[Node]) -> bool:
        """Whether the effective sample size calls for drawing anew."""
        weights = self._weights(nodes)
        return math.fsum(weights) ** 2 < self.ess * len(nodes) * math.fsum(weight * weight for weight in weights)

    def _weights(self, nodes: Sequence[Node]) -> list[float]:
        """score / (1 - score), relative to the largest."""
        logits = []
        for node in nodes:
            score = branch_score(node, self.aggregate)
            score = LEAST_SCORE if score is None else min(max(score, LEAST_SCORE), 1 - LEAST_SCORE)
            logits.append(math.log(score / (1 - score)))
        return [math.exp(logit - max(logits)) for logit in logits]

    def _drawn(self, state: ParticleState, nodes: Sequence[Node], count: int) -> list[Node]:
        sums = list(accumulate(self._weights(nodes)))
        if self.resample == "systematic":
            offset = self._uniform(state)
            points = [(place + offset) / count for place in range(count)]
        else:
            points = [self._uniform(state) for _ in range(count)]
        return [nodes[min(bisect_right(sums, point * sums[-1]), len(nodes) - 1)] for point in points]

    def _uniform(self, state: ParticleState) -> float:
        assert state.random is not None
        state.draws += 1
        return state.random(state.root, state.draws)

    def _discard(self, state: ParticleState, node: Node) -> None:
        """A particle that nobody drew is gone, unless an earlier iteration ended with it."""
        if node in state.references or node in state.totals:
            return
        if node in state.held:
            state.held.remove(node)
            state.finished.remove(node)
        state.live.discard(node)
        state.wishes.append(Drop(node))

    def _end_iteration(self, state: ParticleState) -> None:
        state.totals += state.stopped
        self._let_go(state, [])

    def _let_go(self, state: ParticleState, kept: Sequence[Node]) -> None:
        """Drop the ends that no further iteration is given; they stay solutions."""
        gone = sorted(state.held - {*kept}, key=lambda node: node.lineage_path)
        state.wishes += [Drop(node) for node in gone]
        state.held = {*kept}

    def select(self, state: State) -> Selection:
        """Return the answer that the particles vote for."""
        assert isinstance(state, ParticleState)
        counts = state.totals + state.stopped if state.missing else state.totals
        return choose_among(state, self.aggregate, self.vote, counts)


@dataclass(frozen=True, slots=True)
class ParticleGibbs(ParticleFilter):
    """Particle filtering `iterations` times with n / iterations particles; all of their ends vote.

    Each time after the first, `references` trajectories that the last one drew by weight take part: they are weighed
    step by step like the others and copies of their beginnings may be drawn, but they themselves are never lost.

    Source: as of `ParticleFilter`; its_hub lets the last iteration alone vote.
    """

    iterations: int = 4
    references: int = 1
    name: ClassVar[str] = "particle_gibbs"

    def __post_init__(self) -> None:
        ParticleFilter.__post_init__(self)
        check_count(self.name, "iterations", self.iterations)
        check_whole(self.name, "references", self.references, 0)
        if self.n % self.iterations or self.n // self.iterations <= self.references:
            raise ConfigError(
                f"{self.name}: n={self.n} in {self.iterations} iterations with {self.references} references: expected n"
                f" to be a multiple of iterations, with more than {self.references} particles in each"
            )

    @property
    def per_iteration(self) -> int:
        """Particles of an iteration, references among them."""
        return self.n // self.iterations

    def _end_iteration(self, state: ParticleState) -> None:
        ends = [*state.stopped.elements(), *state.references]
        state.totals += Counter(ends)
        state.iteration += 1
        if state.iteration == self.iterations:
            self._let_go(state, [])
            return
        state.references = self._drawn(state, ends, self.references)
        self._let_go(state, state.references)
        state.level, state.stopped = 0, Counter()
        self._ask(state, Counter({state.root: self.per_iteration - self.references}))
