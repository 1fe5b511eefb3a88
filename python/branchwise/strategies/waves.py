"""Votes that stop when they are settled: samples are drawn in waves, and what came back is tested after each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import comb
from typing import ClassVar

from branchwise.answers.vote import choose
from branchwise.strategies.candidates import candidate, choose_among
from branchwise.strategies.chains import Chains, ChainState
from branchwise.strategies.options import check_count, check_limit, check_number
from branchwise.strategies.protocol import Action, Demand, Limits, Random, Reply, State
from branchwise.types import Candidate, Node, Problem, Selection


@dataclass(slots=True)
class WaveState(ChainState):
    """The chains of a search in waves. `why`: of the stop, once there is one."""

    begun: int = 0  # chains
    stopped: int = 0  # of them before their end
    why: str = ""


@dataclass(frozen=True, slots=True)
class Waves(Chains, ABC):
    """At most n chains, `wave` at a time. Tests look at whole waves, so that who was faster decides nothing."""

    n: int = 40
    wave: int = field(default=5, kw_only=True)
    independent: ClassVar[bool] = False  # how many are drawn depends on n

    def __post_init__(self) -> None:
        for option in ("n", "wave"):
            check_count(self.name, option, getattr(self, option))
        check_limit(self.name, "max_steps", self.max_steps)

    def demand(self, limits: Limits) -> Demand:
        """The paths of a wave."""
        most = min(self.wave, self.n)
        return Demand(most, most, self.max_steps, scores=False)

    def start(self, problem: Problem, root: Node, random: Random) -> WaveState:
        """Ask for the first wave."""
        state = WaveState(problem, root)
        self._begin(state)
        return state

    def propose(self, state: State) -> list[Action]:
        """Return the next step of every chain whose last one has been observed, and the first ones of a new wave."""
        return Chains.propose(self, state)

    def observe(self, state: State, replies: list[Reply]) -> None:
        """Let chains grow; when all of a wave have ended, begin the next one unless the vote is settled."""
        assert isinstance(state, WaveState)
        Chains.observe(self, state, replies)
        self._end_wave(state)

    def _end_wave(self, state: WaveState) -> None:
        if len(state.finished) + state.stopped == state.begun and not state.why:
            state.why = self._test(state)
            if not state.why:
                self._begin(state)

    def _size(self, state: WaveState) -> int:
        """Chains of the next wave."""
        return self.wave

    def _begin(self, state: WaveState) -> None:
        end = min(self.n, state.begun + self._size(state))
        state.wishes += [self._step(state.root, lane) for lane in range(state.begun, end)]
        state.begun = end

    @abstractmethod
    def _test(self, state: WaveState) -> str:
        """Why no more samples are needed now that all waves so far are over, or ""; so also when all were drawn."""


@dataclass(frozen=True, slots=True)
class CountedWaves(Waves):
    """Waves whose most frequent answer wins.

    Whatever the test, the search stops when the leading answer cannot be overtaken by the samples that are left.
    """

    @abstractmethod
    def settled(self, votes: Sequence[float], last: Sequence[Candidate], last_votes: Sequence[float]) -> str:
        """Why no more samples are needed, or "".

        votes: numbers of equal answers so far, largest first    last: the last wave, and its numbers
        """

    def _test(self, state: WaveState) -> str:
        drawn = sorted((candidate(node, "last") for node in state.finished), key=lambda each: each.node.lineage_path)
        last = drawn[(len(drawn) - 1) // self.wave * self.wave :]
        votes, last_votes = _numbers(drawn), _numbers(last)
        if self.n == state.begun:
            return "all samples were drawn"
        if votes and votes[0] - sum(votes[1:2]) > self.n - state.begun:
            return "the leading answer cannot be overtaken"
        return self.settled(votes, last, last_votes)

    def select(self, state: State) -> Selection:
        """Return the most frequent answer, and why the search stopped."""
        assert isinstance(state, WaveState)
        selection = choose_among(state, "last", "majority")
        why = f"{selection.why}; {state.why or 'cut'} after {state.begun} of {self.n}"
        return Selection(selection.chosen, selection.candidates, selection.votes, why)


@dataclass(frozen=True, slots=True)
class AdaptiveConsistency(CountedWaves):
    """Samples in waves, until the leading answer is surely the most frequent one of the policy.

    Surely: with probability `confidence`, that of p > 1/2 under Beta(v1 + 1, v2 + 1), v1 and v2 the two largest numbers
    of equal answers.

    A wave of 1 spends least and waits longest. Source: Aggarwal et al., Let's Sample Step by Step, arXiv 2305.11860.
    """

    wave: int = field(default=4, kw_only=True)
    confidence: float = field(default=0.95, kw_only=True)
    name: ClassVar[str] = "adaptive"

    def __post_init__(self) -> None:
        Waves.__post_init__(self)
        check_number(self.name, "confidence", self.confidence, 0.5, 1)

    def settled(self, votes: Sequence[float], last: Sequence[Candidate], last_votes: Sequence[float]) -> str:
        """See the class."""
        if not votes:
            return ""
        sure = majority_probability(int(votes[0]), int(votes[1]) if len(votes) > 1 else 0)
        return f"the leader is right to lead with probability {sure:.3f}" if sure >= self.confidence else ""


@dataclass(frozen=True, slots=True)
class EarlyStopping(CountedWaves):
    """Samples in waves, until all of a wave state the same answer, which is taken.

    A sample without an answer agrees with nobody. Source: Li et al., Escape Sky-high Cost: Early-stopping
    Self-Consistency, ICLR 2024, arXiv 2401.10480.
    """

    name: ClassVar[str] = "esc"

    def settled(self, votes: Sequence[float], last: Sequence[Candidate], last_votes: Sequence[float]) -> str:
        """See the class."""
        agree = len(last) == self.wave and bool(last_votes) and last_votes[0] == self.wave
        return f"all {self.wave} of a wave agree" if agree else ""

    def select(self, state: State) -> Selection:
        """The answer of the wave that agreed, else the most frequent one."""
        assert isinstance(state, WaveState)
        selection = CountedWaves.select(self, state)
        if not state.why.endswith("agree"):
            return selection
        agreed = selection.candidates[-self.wave]  # the first of the last wave
        return Selection(agreed, selection.candidates, selection.votes, selection.why)


def majority_probability(first: int, second: int) -> float:
    """P(p > 1/2) for p ~ Beta(first + 1, second + 1)."""
    n = first + second + 1
    return float(sum(comb(n, k) for k in range(first + 1)) / 2**n)


def _numbers(candidates: Sequence[Candidate]) -> list[float]:
    """How many state the same answer, largest first."""
    return [weight for _, weight in choose(candidates, "majority").votes]
