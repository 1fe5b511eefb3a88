"""Recursive self-aggregation: a population of solutions, each replaced by one that is written from some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from branchwise.answers.vote import choose
from branchwise.config import check_flag
from branchwise.errors import ConfigError
from branchwise.strategies.candidates import candidate, choose_among
from branchwise.strategies.chains import Chains, ChainState
from branchwise.strategies.options import check_count, check_limit, check_number
from branchwise.strategies.protocol import Action, Ask, Random, Reply, State
from branchwise.types import Node, Problem, Selection

END_OF_THOUGHTS = "</think>"

MERGE = """You are given a problem and several candidate solutions. Some of them may be wrong or incomplete. \
Write one better solution: use what is right in them, work out again where they disagree, and try another way if all \
of them seem wrong. End with the final answer in \\boxed{}.

Problem:
{problem}

Candidate solutions:
{solutions}

Now write the improved solution, step by step."""

REFINE = """You are given a problem and a candidate solution, which may be wrong or incomplete. Improve it: keep what \
is right, mend what is wrong, or begin again in another way. End with the final answer in \\boxed{}.

Problem:
{problem}

Candidate solution:
{solutions}

Now write the improved solution, step by step."""


@dataclass(slots=True)
class RsaState(ChainState):
    """A search by aggregation. loops: that are complete    population: the solutions of the last of them, in order"""

    random: Random = field(kw_only=True)
    loops: int = 0
    population: list[Node] = field(default_factory=list)
    why: str = ""


@dataclass(frozen=True, slots=True)
class RSA(Chains):
    """n solutions, then n new ones in every loop, each from k of the last; the most frequent answer wins.

    loops     the first one included, which draws solutions of the problem alone
    k         candidates that a new solution is written from, drawn for each by itself; 1: each improves one
    agree     the search ends when such a share of a loop gives the same answer; None: all loops
    ordered   candidates come in the order of the tree, so that prompts begin alike more often and cost less
    thoughts  candidates come whole, with what stands before the end of their thoughts
    frame     text around {problem} and {solutions}; None: one that asks to merge them, or to improve the only one

    Source: Venkatraman et al., Recursive Self-Aggregation, arXiv 2509.26626 (temperature 1 there, and no `agree`).
    Raises ConfigError for a bad option.
    """

    n: int = 16
    k: int = field(default=4, kw_only=True)
    loops: int = field(default=10, kw_only=True)
    agree: float | None = field(default=1.0, kw_only=True)
    ordered: bool = field(default=False, kw_only=True)
    thoughts: bool = field(default=True, kw_only=True)
    frame: str | None = field(default=None, kw_only=True)
    name: ClassVar[str] = "rsa"
    independent: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_limit(self.name, "max_steps", self.max_steps)
        for option in ("n", "loops"):
            check_count(self.name, option, getattr(self, option))
        check_count(self.name, "k", self.k)
        if self.k > self.n:
            raise ConfigError(f"rsa: k={self.k} is more than n={self.n}: use k={self.n}, or n={self.k}")
        if self.agree is not None:
            check_number(self.name, "agree", self.agree, 0, 1, positive=True)
        check_flag("rsa: ordered", self.ordered)
        check_flag("rsa: thoughts", self.thoughts)
        frame = self.frame
        if frame is not None and not (isinstance(frame, str) and "{problem}" in frame and "{solutions}" in frame):
            raise ConfigError(f"rsa: frame is {frame!r}, expected a text with {{problem}} and {{solutions}} in it")

    def start(self, problem: Problem, root: Node, random: Random) -> RsaState:
        """Ask for n solutions of the problem alone."""
        wishes = Chains.start(self, problem, root, random).wishes
        return RsaState(problem, root, wishes=wishes, random=random)

    def propose(self, state: State) -> list[Action]:
        """Return the next step of every chain whose last one has been observed, and the prompts of a new loop."""
        return Chains.propose(self, state)

    def observe(self, state: State, replies: list[Reply]) -> None:
        """Let chains grow; when all of a loop have ended, begin the next one unless they agree."""
        assert isinstance(state, RsaState)
        Chains.observe(self, state, replies)
        if len(state.finished) == (state.loops + 1) * self.n:
            state.population = sorted(state.finished[-self.n :], key=lambda node: node.lineage_path)
            state.loops += 1
            state.why = self._test(state)
            if not state.why:
                self._begin(state)

    def _begin(self, state: RsaState) -> None:
        """A prompt for each new solution; the lane of a chain is its prompt's index below the root."""
        for lane in range(state.loops * self.n, (state.loops + 1) * self.n):
            state.wishes.append(Ask(state.root, 1, prompt=self._prompt(state, lane), lane=lane))

    def _test(self, state: RsaState) -> str:
        """Why the search is over, or ""."""
        if state.loops == self.loops:
            return "all loops were run"
        votes = choose([candidate(node, "last") for node in state.population], "majority").votes
        share = votes[0][1] / self.n if votes else 0.0
        if self.agree is None or self.n == 1 or share < self.agree:
            return ""
        return f"{100 * share:.0f} % agree"

    def _prompt(self, state: RsaState, number: int) -> str:
        texts = [self._shown(state.population[place]) for place in self._drawn(state, number)]
        solutions = "\n\n".join(f"---- Solution {place} ----\n{text}" for place, text in enumerate(texts, 1))
        frame, shown = (REFINE, texts[0]) if self.k == 1 else (MERGE, solutions)
        first, *others = (self.frame or frame).split("{solutions}")  # one after the other: texts may hold either word
        return shown.join(part.replace("{problem}", state.problem.text) for part in (first, *others))

    def _drawn(self, state: RsaState, number: int) -> Sequence[int]:
        """Places of k different members of the population, in the order in which they were drawn."""
        left, drawn = list(range(self.n)), []
        for draw in range(self.k):
            place = int(state.random(state.root, number * self.k + draw) * len(left))
            drawn.append(left.pop(place))
        return sorted(drawn) if self.ordered else drawn

    def _shown(self, node: Node) -> str:
        text = node.branch_text
        return (text if self.thoughts else text.rpartition(END_OF_THOUGHTS)[2]).strip()

    def select(self, state: State) -> Selection:
        """Return the most frequent answer of the last loop that was complete, and why it was the last one."""
        assert isinstance(state, RsaState)
        if state.population:
            selection = choose([candidate(node, "last") for node in state.population], "majority")
        else:
            selection = choose_among(state, "last", "majority")
        why = f"{selection.why}; {state.why or 'cut'} after {state.loops} of {self.loops} loops"
        return Selection(selection.chosen, selection.candidates, selection.votes, why)
