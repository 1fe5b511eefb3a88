"""What a search over a rival did, counted alike for all of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from benchmarks.vs.levels import Step
from benchmarks.vs.protocol import Json
from benchmarks.vs.workloads import Question, SearchTask


@dataclass
class Tally:
    """Counts of one search; `reply` turns them into the fields of a record."""

    task: SearchTask
    begun: float = field(default_factory=time.perf_counter)
    generated: int = 0
    accepted: int = 0
    fed: int = 0  # tokens that went through the policy
    needed: int = 0  # of these: every token once, those left out that nothing follows
    prm_tokens: int = 0
    prm_needed: int = 0  # of these: every token once
    prm_seconds: float = 0.0
    iterations: int = 0
    problem_seconds: list[float] = field(default_factory=list)
    solutions: list[Json] = field(default_factory=list)

    def finish(self, question: Question, steps: list[Step], begun: float) -> None:
        """A problem is over; `steps`: all that were written for it."""
        self.problem_seconds.append(time.perf_counter() - begun)
        self.generated += sum(len(step.tokens) for step in steps)
        self.accepted += sum(len(step.tokens) for step in steps if step.kept)
        self.needed += len(question.prompt) + sum(map(needed, steps))
        turns = len(question.to_verdict) + len(question.to_next)
        self.prm_needed += len(question.prm_head) + sum(len(step.tokens) + turns for step in steps)
        branches = [[step.branch_text or step.branch_tokens, step.score] for step in steps if step.ended]
        self.solutions.append({"id": question.id, "branches": branches})

    def reply(self) -> Json:
        """The fields of a record."""
        width = self.task.n * min(self.task.in_flight, len(self.task.questions))
        return {
            "seconds": time.perf_counter() - self.begun,
            "problem_seconds": self.problem_seconds,
            "generated_tokens": self.generated,
            "accepted_tokens": self.accepted,
            "recomputed_tokens": self.fed - self.needed,
            "prm_tokens": self.prm_tokens,
            "prm_recomputed_tokens": max(0, self.prm_tokens - self.prm_needed),
            "prm_seconds": self.prm_seconds,
            "row_occupancy": self.generated / max(1, self.iterations * width),
            "solutions": self.solutions,
        }


def needed(step: Step) -> int:
    """Tokens of a step that must go through the policy: its last one only if a step follows."""
    return len(step.tokens) - 1 + (step.kept and not step.ended)
