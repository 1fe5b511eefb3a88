"""How branches end and compare: the depth limit, the score of a branch, and the candidates for the final answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from branchwise.answers.aggregate import aggregate
from branchwise.answers.extract import extract_answer
from branchwise.answers.vote import POWER, Vote, choose
from branchwise.confidence import Measure, TraceConfidence
from branchwise.strategies.protocol import State
from branchwise.types import Aggregate, Candidate, Node, Selection


def ended(node: Node, max_steps: int | None) -> bool:
    """True when the branch cannot go on: end of sequence, a step cut off by its token cap, or the last step allowed."""
    return node.is_final or (max_steps is not None and node.depth >= max_steps)


def branch_score(node: Node, kind: Aggregate) -> float | None:
    """The aggregate of the step scores on the path; None when no step of it has one."""
    scores = node.scores
    return aggregate(scores, kind) if scores else None


def rank(node: Node, kind: Aggregate) -> tuple[float, tuple[int, ...]]:
    """Sorts the best branch first: highest score, then smallest lineage path; a branch without a score comes last."""
    score = branch_score(node, kind)
    return (math.inf if score is None else -score, node.lineage_path)


def candidate(node: Node, kind: Aggregate) -> Candidate:
    """The trajectory that ends in `node`; one cut by the depth limit has finish "length", like any truncated one."""
    text = node.branch_text
    finish = node.finish if node.is_final else "length"
    told = None if node.confidence is None else TraceConfidence.of(node.confidence)
    return Candidate(
        node, text, extract_answer(text), node.scores, branch_score(node, kind), finish, confidence=told
    )  # fmt: skip


def choose_among(
    state: State, kind: Aggregate, vote: Vote, counts: Mapping[Node, int] | None = None, *,
    measure: Measure | None = None, keep_percent: float = 100, power: float = POWER,
) -> Selection:  # fmt: skip
    """The final pick among finished branches, and those that were still growing when a deadline came.

    counts: how many equal ones each stands for, default 1; times `state.copies`
    measure: of how sure the policy was, in the place of scores    keep_percent, power: see `choose`

    A truncated trajectory is judged by what it states: it votes if its text holds an answer, and it never wins against
    one that has an answer if it has none.
    """
    growing = [node for node in state.live if node is not state.root]
    candidates = [candidate(node, kind) for node in (*state.finished, *growing)]
    number = {} if counts is None else counts
    candidates = [replace(each, count=number.get(each.node, 1) * state.copies) for each in candidates]
    if measure is not None:
        candidates = [by_measure(each, measure) for each in candidates]
    return choose(candidates, vote, keep_percent=keep_percent, power=power)


def by_measure(candidate: Candidate, measure: Measure) -> Candidate:
    """The same with how sure the policy was for a score."""
    told = candidate.confidence
    return replace(candidate, score=None if told is None else told.measure(measure))
