"""What both sides are asked to do: a prompt to sample from, problems to search, and tapes that force a tree's shape."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

PROMPT = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many clips did "
    "Natalia sell altogether in April and May? Explain every step, and say what each number means before you use it. "
)
PROMPT_TOKENS = 110
TEMPERATURE = 0.8
Path = tuple[int, ...]
"""Child indices from the root to a step: what both sides call it by."""


@dataclass(frozen=True)
class Question:
    """A problem as both sides get it: as text, and as ids in the formats of the policy and of the token-pair PRM.

    The PRM reads `prm_head`, then for each step its tokens and `to_verdict`, with `to_next` between steps.
    """

    id: str
    text: str
    answer: str | None
    chat: str  # the prompt through the chat template
    prompt: list[int]  # the ids of `chat`
    prm_head: list[int]
    to_verdict: list[int]
    to_next: list[int]

    def prm_ids(self, steps: Iterable[Sequence[int]]) -> list[int]:
        """What the PRM reads before its verdict on the last of `steps`."""
        ids = list(self.prm_head)
        for index, step in enumerate(steps):
            ids += [*(self.to_next if index else []), *step, *self.to_verdict]
        return ids


@dataclass(frozen=True)
class Forced:
    """What a tape says about one step."""

    length: int
    score: float
    ends: bool  # the branch is finished


class Tape:
    """Lengths and scores of the steps of a tree, forced upon both sides so that they decode the same tree.

    Recorded from a search (`nodes`: problem id -> path, written "0.2.1" -> [length, score, ends]), or made: every step
    `length` tokens (one of several lengths, drawn by path), scores drawn by path, all branches finished after `steps`
    steps.
    """

    def __init__(
        self, nodes: Mapping[str, Mapping[str, Any]] | None = None, length: int | Sequence[int] = 0, steps: int = 0
    ) -> None:
        self.nodes, self.length, self.steps = nodes, length, steps

    def step(self, problem: str, path: Sequence[int]) -> Forced:
        """The step at a path. KeyError: a recorded tree has none there, so somebody selected otherwise."""
        name = ".".join(map(str, path))
        if self.nodes is not None:
            return Forced(*self.nodes[problem][name])
        drawn = random.Random(f"{problem}/{name}")
        score = drawn.random()
        length = self.length if isinstance(self.length, int) else drawn.choice(self.length)
        return Forced(length, score, len(path) >= self.steps)

    def to_json(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"nodes": self.nodes, "length": self.length, "steps": self.steps}


@dataclass(frozen=True)
class SearchTask:
    """A search over some problems, and how it is done."""

    strategy: str  # "beam": one group of n; "dvts": groups of `expand`
    n: int
    expand: int
    questions: list[Question]
    max_steps: int
    max_tokens: int  # of a solution
    max_step_tokens: int
    in_flight: int  # problems at once, for sides that can
    top_p: float = 1.0
    seed: int = 0
    stop_ids: list[int] = field(default_factory=list)  # tokens that hold the delimiter, for engines that stop at ids
    tape: Tape | None = None

    @property
    def group_size(self) -> int:
        """Slots that compete with each other."""
        return self.n if self.strategy == "beam" else self.expand

    def to_json(self) -> dict[str, Any]:
        """For the wire."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        tape = self.tape.to_json() if self.tape else None
        return {**fields, "questions": [asdict(each) for each in self.questions], "tape": tape}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> SearchTask:
        """The reverse of `to_json`."""
        questions = [Question(**each) for each in fields["questions"]]
        tape = Tape(**fields["tape"]) if fields["tape"] else None
        return cls(**{**fields, "questions": questions, "tape": tape})
