"""DeepConf online: a first wave says how sure the policy can be, later solutions that fall below are stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from branchwise.answers.vote import choose, percentile
from branchwise.confidence import ConfidenceOptions
from branchwise.strategies.candidates import by_measure, candidate, ended
from branchwise.strategies.chains import Chains
from branchwise.strategies.options import check_confidence, check_count, check_number
from branchwise.strategies.protocol import Action, Demand, Drop, Limits, Random, Reply, State
from branchwise.strategies.waves import Waves, WaveState
from branchwise.types import Candidate, Node, Problem, Selection


@dataclass(slots=True)
class DeepConfState(WaveState):
    """A search by `DeepConf`. threshold: of the lowest group, once the first wave is over."""

    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class DeepConf(Waves):
    """Solutions in waves; one of which the policy is less sure than of its surest first ones is stopped.

    warmup        solutions of the first wave, which grow to their end; `wave`: of each later one
    window, top   tokens of a group, and likeliest words of a token's confidence
    keep_percent  so many percent of the first wave have a lowest group that reaches the threshold: 10 is DeepConf-low,
                  which is bold, 90 is DeepConf-high. The threshold is the (100 - keep_percent)th percentile
    consensus     no more waves when the leading answer has this share of all votes

    A solution is stopped at the end of the first step in which a group is below the threshold: which ones, is as if
    every token were looked at; what a step writes behind that group is paid for. None is stopped before it fills a
    window, so `window` has to be shorter than solutions are. All whose lowest group reaches the threshold vote, those
    of the first wave, too, with that group as their weight; the plain majority of what is finished where none of them
    states an answer. Waves are looked at when all of each is over, so that who was faster decides nothing.

    Ties: weight of the answer class, then highest lowest group, then smallest lineage path. Raises ConfigError for a
    bad option. Source: Fu et al., Deep Think with Confidence, arXiv 2508.15260.
    """

    n: int = 32
    wave: int = field(default=8, kw_only=True)
    warmup: int = field(default=16, kw_only=True)
    keep_percent: float = field(default=10, kw_only=True)
    consensus: float = field(default=0.95, kw_only=True)
    window: int = field(default=ConfidenceOptions().window, kw_only=True)
    top: int = field(default=ConfidenceOptions().top, kw_only=True)
    name: ClassVar[str] = "deepconf"

    def __post_init__(self) -> None:
        Waves.__post_init__(self)
        check_count(self.name, "warmup", self.warmup)
        check_number(self.name, "keep_percent", self.keep_percent, 0, 100, positive=True)
        check_number(self.name, "consensus", self.consensus, 0, 1)
        check_confidence(self.name, self.window, self.top)

    def demand(self, limits: Limits) -> Demand:
        """The paths of the larger kind of wave."""
        most = min(self.n, max(self.warmup, self.wave))
        return Demand(most, most, self.max_steps, scores=False, confidence=ConfidenceOptions(self.top, self.window))

    def start(self, problem: Problem, root: Node, random: Random) -> DeepConfState:
        """Ask for the first wave."""
        state = DeepConfState(problem, root)
        self._begin(state)
        return state

    def propose(self, state: State) -> list[Action]:
        """As all waves do."""
        return Waves.propose(self, state)

    def observe(self, state: State, replies: list[Reply]) -> None:
        """Stop a chain that falls below the threshold, let the others grow; at the end of a wave see what it says."""
        assert isinstance(state, DeepConfState)
        for reply in replies:
            (child,) = reply.nodes
            if self._falls(state, child):
                state.live.discard(reply.ask.node)
                state.wishes.append(Drop(child))
                state.stopped += 1
            else:
                Chains.observe(self, state, [reply])
        self._end_wave(state)

    def _falls(self, state: DeepConfState, child: Node) -> bool:
        if state.threshold is None or ended(child, self.max_steps):
            return False
        assert child.confidence is not None
        return min(child.confidence.groups(), default=state.threshold) < state.threshold

    def _size(self, state: WaveState) -> int:
        return self.wave if state.begun else self.warmup

    def _test(self, state: WaveState) -> str:
        assert isinstance(state, DeepConfState)
        drawn = _weighed(state.finished)
        if state.threshold is None:
            lowest = [each.score for each in drawn if each.score is not None]
            state.threshold = percentile(lowest, 100 - self.keep_percent)
        if self.n == state.begun:
            return "all samples were drawn"
        votes = [weight for _, weight in choose(_kept(drawn, state.threshold), "weighted").votes]
        share = votes[0] / sum(votes) if votes and sum(votes) > 0 else 0.0
        return f"{share:.3f} of all votes agree" if share >= self.consensus else ""

    def select(self, state: State) -> Selection:
        """Return the answer of most weight among those that reach the threshold, and why the search stopped."""
        assert isinstance(state, DeepConfState)
        growing = [node for node in state.live if node is not state.root]
        drawn = [replace(each, count=state.copies) for each in _weighed([*state.finished, *growing])]
        kept = _kept(drawn, state.threshold)
        selection = choose(kept, "weighted")
        if not selection.votes:
            selection = choose(drawn, "majority")
        ordered = sorted(drawn, key=lambda each: each.node.lineage_path)
        least = "no threshold" if state.threshold is None else f"threshold {state.threshold:.4f}"
        why = (
            f"{selection.why}; {len(kept)} of {len(drawn)} kept, {least}, {state.stopped} stopped;"
            f" {state.why or 'cut'} after {state.begun} of {self.n}"
        )
        return Selection(selection.chosen, ordered, selection.votes, why)


def _weighed(nodes: Sequence[Node]) -> list[Candidate]:
    """Candidates with their lowest group for a score."""
    return [by_measure(candidate(node, "last"), "lowest") for node in nodes]


def _kept(drawn: Sequence[Candidate], threshold: float | None) -> list[Candidate]:
    return [each for each in drawn if threshold is None or (each.score is not None and each.score >= threshold)]
