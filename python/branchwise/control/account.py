"""What has been drawn for one problem, wave by wave, and what the next wave of it may gain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from branchwise.answers.vote import choose
from branchwise.errors import BranchwiseError
from branchwise.strategies.auto import Auto
from branchwise.strategies.outlook import standing
from branchwise.tree import number
from branchwise.types import Candidate, Cost, Cut, Decision, Node, Problem, Result, Selection

Key = tuple[str, int, int]
"""Of a wave: id and seed of its problem, and its number."""
LEAST_GAIN = 0.001  # of a wave of the usual size: below it is nothing but the noise of a calibration
GOLDEN = 0x9E3779B97F4A7C15  # between the seeds of two waves


@dataclass(frozen=True, slots=True)
class Wave:
    """Solutions that were drawn together. root: of their tree    error: why there are none"""

    candidates: list[Candidate]
    cost: Cost
    root: Node
    cuts: dict[Cut, int]
    error: BranchwiseError | None = None

    @property
    def size(self) -> int:
        """Its solutions."""
        return sum(each.count for each in self.candidates)

    @classmethod
    def of(cls, result: Result) -> Wave:
        """Those of a search."""
        return cls(result.candidates, result.cost, result.tree, result.cuts, result.error)


class Account:
    """One problem. seed: of the run, where it has none of its own"""

    def __init__(self, problem: Problem, auto: Auto, seed: int) -> None:
        self.problem, self._auto = problem, auto
        self.waves: list[Wave] = []
        self.decisions: list[Decision] = []
        self.asked = problem
        self._seed = seed if problem.seed is None else problem.seed
        self._decide()

    @property
    def key(self) -> Key:
        """Of the next wave."""
        return self.problem.id, self._seed, len(self.waves)

    @property
    def is_fresh(self) -> bool:
        """Whether nothing was drawn yet."""
        return not self.waves

    @property
    def wants_more(self) -> bool:
        """Whether another wave may be worth something."""
        return self._next.chosen != "stop"

    @property
    def gain(self) -> float:
        """Of the probability that the answer is right, by the next wave."""
        return self._next.gain

    @property
    def size(self) -> int:
        """Solutions of the next wave."""
        return self._next.n

    @property
    def longest(self) -> int:
        """Tokens of the longest solution."""
        lengths = [sum(len(node.tokens) for node in each.node.path) for wave in self.waves for each in wave.candidates]
        return max(lengths, default=0)

    @property
    def question_tokens(self) -> int:
        """Of the judge, at most: what it read in one wave beyond the policy's tokens, or the bytes of the question."""
        read = [wave.cost.prm_tokens - wave.cost.generated_tokens for wave in self.waves]
        return max([0, *read]) if read else 256 + 2 * len(self.problem.text.encode())

    def ask(self) -> Problem:
        """The next wave, as a problem to be searched."""
        seed = (self._seed + GOLDEN * len(self.waves)) % 2**64
        self.asked = replace(self.problem, strategy=self._auto.rule(self._next.chosen, self._next.n), seed=seed)
        return self.asked

    def add(self, wave: Wave) -> None:
        """Take what was drawn, and decide on the next."""
        self.decisions.append(self._next)
        self.waves.append(wave)
        if len(self.waves) > 1:
            _join(self.waves[0].root, wave.root)
        self._decide()

    def shrink(self) -> None:
        """Let the next wave be a small one: nothing larger can be paid for."""
        if self.size > self._auto.wave:
            self._decide(self._auto.wave)

    def _decide(self, most: int | None = None) -> None:
        drawn = sum(decision.n for decision in self.decisions)
        if self.waves and self.waves[-1].error is not None:
            self._next = Decision(drawn, 0.0, 0.0, "", "stop", 0, "its search failed")
        else:
            self._next = self._auto.decide(self._selection(), self._auto.n - drawn, floor=LEAST_GAIN, most=most)

    def _selection(self) -> Selection:
        """The vote of all solutions."""
        return choose([each for wave in self.waves for each in wave.candidates], self._auto.weighing)

    def result(self, grade: Callable[[str | None, str], bool], why: str) -> Result:
        """All waves as one search. why: there was no other one, unless the rule itself stopped"""
        selection, last = self._selection(), self._next
        root = self.waves[0].root
        number(root)
        if last.chosen != "stop":
            last = replace(last, chosen="stop", n=0, why=f"{why}; another wave might gain {last.gain:.3f}")
        chosen, gold = selection.chosen, self.problem.answer
        now = standing(selection)
        cuts: dict[Cut, int] = {}
        cost = Cost()
        for wave in self.waves:
            cost.add(wave.cost)
            for name, times in wave.cuts.items():
                cuts[name] = cuts.get(name, 0) + times
        answer = chosen.answer if chosen else None
        return Result(
            problem=self.problem, answer=answer, text=chosen.text if chosen else "",
            score=chosen.score if chosen else None, scores=chosen.scores if chosen else [], votes=selection.votes,
            candidates=selection.candidates, cost=cost, tree=root, strategy=self._auto.name,
            why=f"{selection.why}; {last.why}", correct=None if gold is None else grade(answer, gold),
            cuts=cuts, confidence=self._auto.outlook.right(now), calibrated=self._auto.outlook.knows(now),
            decisions=[*self.decisions, last], error=self.waves[-1].error if not selection.candidates else None,
        )  # fmt: skip


def _join(root: Node, other: Node) -> None:
    """Hang the children of another root under this one, behind those that it has."""
    first = 1 + max((child.index for child in root.children), default=-1)
    for place, child in enumerate(sorted(other.children, key=lambda child: child.index)):
        child.parent, child.index = root, first + place
        root.children.append(child)
