"""Beam search and DVTS over somebody else's engine, in the two ways in which it is done.

*default*: search-and-learn's structure. One problem at a time; every level is one call with the text of every branch,
one sample each; then the PRM reads every trajectory from its first token on.
*tuned*: token ids in, a kept branch expanded with n samples, several problems in flight, each level decided as soon as
its own steps are there, and a PRM that reads its prefix cache.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.vs.levels import Step, first_levels, next_level
from benchmarks.vs.protocol import Json
from benchmarks.vs.tally import Tally
from benchmarks.vs.workloads import Question, SearchTask

MIN_PRM_TOKENS = 64  # worth a pass through the PRM while the policy is still busy


@dataclass(frozen=True)
class Drawn:
    """One sampled step."""

    tokens: list[int]
    text: str
    ended: bool


class TextPolicy(Protocol):
    """A policy that is called with texts."""

    def continue_texts(self, texts: list[str], caps: list[int], task: SearchTask) -> tuple[list[Drawn], int]:
        """A step for each text, of at most (with a tape: exactly) so many tokens; and the tokens that were fed."""
        ...


class TextJudge(Protocol):
    """A PRM that reads whole trajectories."""

    def read(self, trajectories: list[tuple[str, list[str]]]) -> tuple[list[float], int]:
        """(problem, steps) -> P(good) of each last step; and the tokens that went through the model."""
        ...


class IdPolicy(Protocol):
    """A policy that is given work and then advanced one iteration at a time."""

    def add(self, key: object, ids: list[int], n: int, cap: int, task: SearchTask) -> None: ...
    def advance(self) -> tuple[list[tuple[object, list[Drawn]]], int]:
        """One iteration: what finished, as (key, samples); and the tokens that were fed."""
        ...

    @property
    def busy(self) -> bool: ...


class IdJudge(Protocol):
    """A PRM that is given token ids, and reads its prefix cache."""

    def add(self, key: object, ids: list[int]) -> None: ...
    def advance(self) -> list[tuple[object, float, int]]:
        """One iteration; what finished: key, P(good), tokens computed."""
        ...

    @property
    def busy(self) -> bool: ...


def cap(task: SearchTask, question: Question, step: Step) -> int:
    """Tokens that a step may have; with a tape: will have."""
    if task.tape:
        return task.tape.step(question.id, step.path).length
    used = len(step.parent.branch_tokens) if step.parent else 0
    return min(task.max_step_tokens, task.max_tokens - used)


def write(task: SearchTask, question: Question, step: Step, drawn: Drawn) -> None:
    """Put what was sampled into a step, and say whether its branch goes on."""
    step.tokens, step.text = drawn.tokens, drawn.text
    if task.tape:
        forced = task.tape.step(question.id, step.path)
        assert len(step.tokens) == forced.length, f"{len(step.tokens)} tokens, the tape says {forced.length}"
        step.ended = forced.ends
    else:
        step.ended = drawn.ended or len(step.path) >= task.max_steps or len(step.branch_tokens) >= task.max_tokens


def score(task: SearchTask, question: Question, step: Step, value: float) -> None:
    """Put the PRM's verdict, or the tape's, into a step."""
    step.score = task.tape.step(question.id, step.path).score if task.tape else value


def default_search(task: SearchTask, policy: TextPolicy, judge: TextJudge) -> Json:
    """All problems, one after the other; returns the fields of a record."""
    tally = Tally(task)
    for question in task.questions:
        begun = time.perf_counter()
        levels, steps = first_levels(task.n, task.group_size), list[Step]()
        while levels:
            level = [step for group in levels for step in group]
            grow_level(task, question, level, policy, judge, tally)
            steps += level
            levels = [group for group in (next_level(group, task.expand) for group in levels) if group]
        tally.finish(question, steps, begun)
    return tally.reply()


def grow_level(
    task: SearchTask, question: Question, level: list[Step], policy: TextPolicy, judge: TextJudge, tally: Tally
) -> None:
    """Sample and judge one level in the default way."""
    texts = [question.chat + (step.parent.branch_text if step.parent else "") for step in level]
    drawn, fed = policy.continue_texts(texts, [cap(task, question, step) for step in level], task)
    for step, each in zip(level, drawn, strict=True):
        write(task, question, step, each)
    begin = time.perf_counter()
    scores, read = judge.read([(question.text, [each.text for each in step.branch]) for step in level])
    tally.prm_seconds += time.perf_counter() - begin
    for step, value in zip(level, scores, strict=True):
        score(task, question, step, value)
    tally.fed += fed
    tally.prm_tokens += read
    tally.iterations += max(len(step.tokens) for step in level)


@dataclass(eq=False)
class Running:
    """A problem in flight in the tuned way."""

    question: Question
    begun: float
    open_groups: int = 0
    steps: list[Step] = field(default_factory=list)


@dataclass(eq=False)
class Group:
    """A level of one group: it is decided when `missing` is 0."""

    problem: Running
    steps: list[Step]
    missing: int


class TunedSearch:
    """All problems, several at once."""

    def __init__(self, task: SearchTask, policy: IdPolicy, judge: IdJudge) -> None:
        self.task, self.policy, self.judge = task, policy, judge
        self.tally = Tally(task)
        self.unread = 0  # tokens that wait for the PRM

    def run(self) -> Json:
        """The fields of a record."""
        waiting = deque(self.task.questions)
        self.running: set[Running] = set()
        while waiting or self.running:
            while waiting and len(self.running) < self.task.in_flight:
                self._open(waiting.popleft())
            if self.policy.busy:
                self._decode()
            if self.judge.busy and (self.unread >= MIN_PRM_TOKENS or not self.policy.busy):
                self._read()
        return self.tally.reply()

    def _open(self, question: Question) -> None:
        problem = Running(question, time.perf_counter())
        self.running.add(problem)
        for steps in first_levels(self.task.n, self.task.group_size):
            problem.open_groups += 1
            self._expand(problem, steps)

    def _expand(self, problem: Running, steps: list[Step]) -> None:
        """Ask for a level: one request for all steps that have parent and length in common."""
        group = Group(problem, steps, len(steps))
        requests: dict[tuple[Step | None, int], list[Step]] = {}
        for step in steps:
            requests.setdefault((step.parent, cap(self.task, problem.question, step)), []).append(step)
        for (parent, tokens), children in requests.items():
            ids = problem.question.prompt + (parent.branch_tokens if parent else [])
            self.policy.add((group, children), ids, len(children), tokens, self.task)

    def _decode(self) -> None:
        self.tally.iterations += 1
        finished, fed = self.policy.advance()
        self.tally.fed += fed
        for key, samples in finished:
            group, children = key  # type: ignore[misc]
            question = group.problem.question
            for step, drawn in zip(children, samples, strict=True):
                write(self.task, question, step, drawn)
                self.judge.add((group, step), question.prm_ids([each.tokens for each in step.branch]))
                self.unread += len(step.tokens)

    def _read(self) -> None:
        begin = time.perf_counter()
        self.unread = 0
        while self.judge.busy:
            for key, value, read in self.judge.advance():
                group, step = key  # type: ignore[misc]
                self.tally.prm_tokens += read
                score(self.task, group.problem.question, step, value)
                group.missing -= 1
                if group.missing == 0:
                    self._decide(group)
        self.tally.prm_seconds += time.perf_counter() - begin

    def _decide(self, group: Group) -> None:
        problem = group.problem
        problem.steps += group.steps
        following = next_level(group.steps, self.task.expand)
        if following:
            self._expand(problem, following)
            return
        problem.open_groups -= 1
        if problem.open_groups == 0:
            self.running.remove(problem)
            self.tally.finish(problem.question, problem.steps, problem.begun)


def branch_of(texts: Sequence[str], tokens: Iterable[Sequence[int]], path: tuple[int, ...]) -> Step | None:
    """A branch that is already there: its last step, or None for no steps."""
    parent = None
    for depth, (text, ids) in enumerate(zip(texts, tokens, strict=True)):
        parent = Step((*path[:1], *[0] * depth), parent, list(ids), text, kept=True)
    return parent
