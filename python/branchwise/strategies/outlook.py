"""What the solutions so far say of a problem, and what more of them may be expected to change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from branchwise.answers.vote import choose
from branchwise.strategies.waves import majority_probability
from branchwise.types import Selection

Difficulty = Literal["", "easy", "medium", "hard"]
Kind = Literal["chains", "tree", "beam", "particles"]
"""Of a wave: independent solutions; one beam that keeps a single branch, which is a subtree of DVTS; a beam or a
particle filter as large as `LARGE` such waves."""

KINDS: tuple[Kind, ...] = ("chains", "tree", "beam", "particles")
LARGE = 3


def waves_of(kind: Kind) -> int:
    """How many waves' solutions one wave of a kind has."""
    return LARGE if kind in ("beam", "particles") else 1


EASY, MEDIUM = 0.5, 0.1  # pass@1 at least, see `compute_optimal`


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of a vote.

    n        solutions    leader, second: how many of them state the two most frequent answers
    score    best one of the chosen answer; None: there is none, or nothing has scores
    share    of the chosen answer in the weights of all answers, 0..1
    success  estimated number of right solutions among the n: their scores, or how many agree with the chosen answer
    """

    n: int
    leader: int
    second: int
    score: float | None
    share: float
    success: float

    @property
    def difficulty(self) -> Difficulty:
        """By the estimated pass@1 of the policy."""
        if not self.n:
            return ""
        rate = self.success / self.n
        return "easy" if rate >= EASY else "medium" if rate >= MEDIUM else "hard"


def standing(selection: Selection) -> Standing:
    """That of a selection, whatever vote it was made by."""
    candidates = selection.candidates
    n = sum(each.count for each in candidates)
    counts = sorted((weight for _, weight in choose(candidates, "majority").votes), reverse=True)
    leader, second = (int(counts[i]) if i < len(counts) else 0 for i in (0, 1))
    scores = [(min(1.0, max(0.0, each.score)), each.count) for each in candidates if each.score is not None]
    chosen, total = selection.chosen, math.fsum(weight for _, weight in selection.votes)
    stated = chosen is not None and bool(selection.votes)
    share = selection.votes[0][1] / total if stated and total > 0 else 0.0
    success = math.fsum(score * count for score, count in scores) if scores else share * n
    return Standing(n, leader, second, chosen.score if chosen is not None and stated else None, share, success)


class Outlook(Protocol):
    """What is known of a policy and its judge, put into probabilities."""

    @property
    def judged(self) -> bool:
        """Whether steps have scores."""
        ...

    @property
    def billions(self) -> float | None:
        """Of the policy's weights; None: unknown."""
        ...

    def right(self, now: Standing) -> float:
        """Probability that the chosen answer is right."""
        ...

    def knows(self, now: Standing) -> bool:
        """Whether that was fitted to problems with known answers."""
        ...

    def gain(self, now: Standing, kind: Kind, n: int) -> float:
        """How much more probable `n` more solutions of a kind are expected to make that."""
        ...

    def kinds(self, now: Standing) -> Sequence[Kind]:
        """Those that the next wave may be of."""
        ...


@dataclass(frozen=True, slots=True)
class RuleOfThumb:
    """An outlook without measurements.

    Votes: the chosen answer is as right as it is frequent; another wave gains what is left of the probability that it
    is the policy's most frequent one. Scores: an answer is as right as its best score says, as far as the judge is to
    be trusted; a wave gains by finding a right solution where there is none, each of its solutions being right with
    probability Beta(1 + success, 1 + n - success).

    judged        whether there are scores
    quality       of the judge, the probability that it scores a right solution above a wrong one (AUC), 0.5 to 1: a
                  score counts 2 quality - 1, the share of the answer the rest. None: scores are taken as they are
    billions      of the policy's weights, for the table of the paper; None: unknown
    """

    judged: bool = True
    quality: float | None = None
    billions: float | None = None

    def right(self, now: Standing) -> float:
        """See the class."""
        share = now.leader / (now.n + 1)
        if now.score is None:
            return share
        trust = 1.0 if self.quality is None else 2 * self.quality - 1
        return trust * min(1.0, max(0.0, now.score)) + (1 - trust) * share

    def knows(self, now: Standing) -> bool:
        """Nothing was."""
        return False

    def gain(self, now: Standing, kind: Kind, n: int) -> float:
        """See the class."""
        if not now.n:
            return 1.0
        if not self.judged:
            return 1 - majority_probability(now.leader, now.second)
        wrong, all_wrong = 1 + now.n - now.success, 1.0
        for i in range(n):
            all_wrong *= (wrong + i) / (2 + now.n + i)
        return (1 - self.right(now)) * (1 - all_wrong)

    def kinds(self, now: Standing) -> Sequence[Kind]:
        """By the paper's table: its best-of-N is a wave of chains, its beams and DVTS are one of trees."""
        if not self.judged:
            return ("chains",)
        table = compute_optimal(self.billions, now.difficulty or "medium")
        return ("chains",) if table == "best_of_n" else ("tree",)


def compute_optimal(billions: float | None, difficulty: Difficulty) -> Literal["best_of_n", "beam", "dvts"]:
    """The best strategy by size of the policy and difficulty, as Table of Liu et al., Can 1B LLM Surpass 405B LLM?,
    arXiv 2502.06703 has it. billions: of weights; None: less than 7

    Difficulty is the policy's pass@1: easy from 50 %, medium from 10 %, else hard.
    """
    if billions is not None and billions >= 32:
        return "best_of_n"
    if difficulty == "hard":
        return "beam"
    if billions is not None and billions >= 7:
        return "dvts"
    return "best_of_n" if difficulty == "easy" else "beam"
