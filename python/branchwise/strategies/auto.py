"""The compute-optimal rule: waves of solutions, each of the kind that promises most, until no more are worth it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from branchwise.answers.aggregate import AGGREGATES
from branchwise.answers.vote import VOTES, Vote
from branchwise.strategies.beam import BeamSearch
from branchwise.strategies.best_of_n import BestOfN
from branchwise.strategies.candidates import choose_among
from branchwise.strategies.dvts import DVTS
from branchwise.strategies.majority import Majority
from branchwise.strategies.options import check_choice, check_count, check_number
from branchwise.strategies.outlook import LARGE, Outlook, RuleOfThumb, Standing, compute_optimal, standing, waves_of
from branchwise.strategies.particles import ParticleFilter
from branchwise.strategies.protocol import Action, Ask, Demand, Limits, Random, Reply, State, Strategy
from branchwise.types import Aggregate, Decision, Node, Problem, Selection

Controller = Literal["gain", "paper"]
CONTROLLERS: tuple[Controller, ...] = ("gain", "paper")
UNKNOWN = RuleOfThumb()


@dataclass(slots=True)
class AutoState(State):
    """A search in waves. `rule` grows the wave that is under way, `wave` is what it remembers."""

    random: Random | None = None
    rule: Strategy | None = None
    wave: State | None = None
    counts: dict[Node, int] = field(default_factory=dict)  # equal solutions of waves that have ended, see `Candidate`
    flying: int = 0  # asks whose reply is not there yet
    begun: int = 0  # solutions
    over: bool = False


@dataclass(frozen=True, slots=True)
class Auto:
    """At most n solutions, in waves: each is of the kind that promises most, until none promises enough.

    controller  "gain": another wave is drawn while it makes the right answer more probable by at least `floor`, in
                expectation, which is the price of a wave: of several kinds the one that gains most beyond it; none that
                cannot change the answer. "paper": one wave of chains tells how difficult the
                problem is, and the table of `compute_optimal` what the rest of n is spent on
    wave        solutions of a wave
    vote        weight of an answer; None: its scores where there are some, else how many state it
    outlook     what is known of policy and judge, see `informed`

    Everything that was decided, and by what, is in `Result.decisions`. Raises ConfigError for a bad option.
    """

    n: int = 16
    aggregate: Aggregate = field(default="last", kw_only=True)
    max_steps: int = field(default=40, kw_only=True)
    vote: Vote | None = field(default=None, kw_only=True)
    wave: int = field(default=4, kw_only=True)
    floor: float = field(default=0.05, kw_only=True)
    controller: Controller = field(default="gain", kw_only=True)
    outlook: Outlook = field(default=UNKNOWN, init=False, repr=False, compare=False)
    name: ClassVar[str] = "auto"

    def __post_init__(self) -> None:
        for option in ("n", "max_steps", "wave"):
            check_count(self.name, option, getattr(self, option))
        check_choice(self.name, "aggregate", self.aggregate, AGGREGATES)
        if self.vote is not None:
            check_choice(self.name, "vote", self.vote, VOTES)
        check_number(self.name, "floor", self.floor, 0, 1)
        check_choice(self.name, "controller", self.controller, CONTROLLERS)

    def informed(self, outlook: Outlook) -> Auto:
        """The same rule, with what is known of the models that it will run on."""
        made = copy.copy(self)
        object.__setattr__(made, "outlook", outlook)
        return made

    def demand(self, limits: Limits) -> Demand:
        """The paths of the largest wave; scores where there is a judge."""
        first = min(self.wave, self.n)
        left = self.n - first
        most = max(first, min(left, LARGE * self.wave) if self.controller == "gain" else left)
        return Demand(most, most, self.max_steps, scores=self.outlook.judged)

    def start(self, problem: Problem, root: Node, random: Random) -> AutoState:
        """Begin the first wave."""
        state = AutoState(problem, root, random=random)
        self._decide(state)
        return state

    def propose(self, state: State) -> list[Action]:
        """What the rule of this wave wants; when it has ended, decide on the next one."""
        assert isinstance(state, AutoState)
        while not state.over:
            assert state.rule is not None
            assert state.wave is not None
            actions = state.rule.propose(state.wave)
            state.flying += sum(isinstance(action, Ask) for action in actions)
            if actions or state.flying:
                return actions
            state.equal += state.wave.equal
            state.counts, state.rule, state.wave = self._counts(state), None, None
            self._decide(state)
        return []

    def observe(self, state: State, replies: list[Reply]) -> None:
        """As the rule of this wave does."""
        assert isinstance(state, AutoState)
        assert state.rule is not None
        assert state.wave is not None
        state.flying -= len(replies)
        state.rule.observe(state.wave, replies)

    def select(self, state: State) -> Selection:
        """Choose among the solutions of all waves, and say why there were no more."""
        assert isinstance(state, AutoState)
        selection = self._choose(state)
        why = state.decisions[-1].why if state.decisions else "cut"
        return Selection(selection.chosen, selection.candidates, selection.votes, f"{selection.why}; {why}")

    # --- between two waves -------------------------------------------------------------------------------------

    def _decide(self, state: AutoState) -> None:
        decision = self.decide(self._choose(state), self.n - state.begun)
        state.decisions.append(decision)
        state.over = decision.chosen == "stop"
        if not state.over:
            self._begin(state, decision)

    def decide(self, chosen: Selection, left: int, *, floor: float | None = None, most: int | None = None) -> Decision:
        """What to draw next.

        chosen: the vote of what was drawn    left: solutions that may be drawn    floor: what the next wave must gain
        to be drawn at all; None: the option    most: solutions of it; None: all that are left
        """
        if self.controller == "paper":
            return self._by_table(standing(chosen), left)
        at_once = left if most is None else min(most, left)
        return self._by_gain(chosen, left, at_once, self.floor if floor is None else floor)

    def _by_gain(self, chosen: Selection, left: int, most: int, floor: float) -> Decision:
        now = standing(chosen)
        right, offers = self.outlook.right(now), self._offers(now, most)
        _, gain, kind, n = max(offers, default=(0.0, 0.0, "stop", 0))
        why = "" if left else f"all {self.n} solutions were drawn"
        if now.n and left and self._cannot_be_overtaken(chosen, left):
            why = "the leading answer cannot be overtaken"
        elif now.n and left and gain < floor * n / self.wave:
            why = f"another wave would gain {gain:.3f}, less than {floor:g}"
        if why:
            return Decision(now.n, right, gain, now.difficulty, "stop", 0, f"{why} after {now.n} of {self.n}")
        return Decision(now.n, right, gain, now.difficulty, kind, n, f"it may gain {gain:.3f}")

    def _offers(self, now: Standing, left: int) -> list[tuple[float, float, str, int]]:
        """What may be drawn next: its gain less its price, its gain, kind and solutions.

        The first wave is a small one: it tells whether a large one is worth it.
        """
        sizes = {kind: self.wave * waves_of(kind) for kind in self.outlook.kinds(now)}
        sizes = {kind: min(n, left) for kind, n in sizes.items() if waves_of(kind) == 1 or (now.n and n <= left)}
        gains = [(self.outlook.gain(now, kind, n), kind, n) for kind, n in sizes.items() if n]
        return [(gain - self.floor * n / self.wave, gain, kind, n) for gain, kind, n in gains]

    def _by_table(self, now: Standing, left: int) -> Decision:
        right = self.outlook.right(now)
        if not now.n:
            return Decision(0, right, 1.0, "", "chains", min(self.wave, left), "a first wave tells the difficulty")
        if not left or now.n > self.wave:
            return Decision(now.n, right, 0.0, now.difficulty, "stop", 0, f"all {now.n} solutions were drawn")
        name = compute_optimal(self.outlook.billions, now.difficulty) if self.outlook.judged else "best_of_n"
        kind = "chains" if name == "best_of_n" or left < self.wave else name
        n = left if kind == "chains" else left - left % self.wave
        gain = self.outlook.gain(now, "chains" if kind == "chains" else "tree", n)
        return Decision(
            now.n, right, gain, now.difficulty, kind, n, f"the table has {name} where it is {now.difficulty}"
        )

    def _begin(self, state: AutoState, decision: Decision) -> None:
        """Start the rule of a wave on the same tree; its solutions are those of the whole search."""
        assert state.random is not None
        state.rule = self.rule(decision.chosen, decision.n)
        state.wave = state.rule.start(state.problem, state.root, state.random)
        state.wave.finished, state.wave.live = state.finished, state.live
        state.begun += decision.n

    def rule(self, kind: str, n: int) -> Strategy:
        """What draws n solutions of a kind, as in `Decision.chosen`."""
        if kind == "chains":
            grown = BestOfN if self.outlook.judged else Majority
            return grown(n=n, max_steps=self.max_steps)
        if kind == "particles":
            return ParticleFilter(n, aggregate=self.aggregate, max_steps=self.max_steps)
        rule = DVTS if kind == "dvts" else BeamSearch  # a tree is a beam that keeps one branch
        return rule(n, expand=min(n, self.wave), aggregate=self.aggregate, max_steps=self.max_steps)

    @property
    def weighing(self) -> Vote:
        """How answers are weighed."""
        return self.vote or ("weighted" if self.outlook.judged else "majority")

    def _choose(self, state: AutoState) -> Selection:
        return choose_among(state, self.aggregate, self.weighing, self._counts(state))

    def _counts(self, state: AutoState) -> dict[Node, int]:
        """Of all solutions so far: a particle filter ends with copies."""
        if state.rule is None or state.wave is None:
            return state.counts
        newest = {each.node: each.count for each in state.rule.select(state.wave).candidates}
        return newest | state.counts  # lists are shared, so it names those of earlier waves too

    def _cannot_be_overtaken(self, chosen: Selection, left: int) -> bool:
        """Whether no answers and scores of what is left could change the vote; scores are at most 1."""
        if self.vote == "max":
            return False
        weights = [weight for _, weight in chosen.votes]
        fair = all(each.score is None or 0 <= each.score <= 1 for each in chosen.candidates)
        return fair and bool(weights) and weights[0] - sum(weights[1:2]) > left


def informed(strategy: Strategy, outlook: Outlook | None) -> Strategy:
    """The strategy, with what is known of the models that it will run on, if it asks for that."""
    return strategy.informed(outlook) if isinstance(strategy, Auto) and outlook is not None else strategy
