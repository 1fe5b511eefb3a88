"""An engine without models for command line tests: the real driver over a scripted pair."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from branchwise.errors import InputError
from branchwise.types import Problem, Result
from search.scripted import ScriptedPair, run


@dataclass
class FakeEngine:
    """Stands for `branchwise.api.Engine`. `interrupt_after` results, Ctrl-C is pressed; `seen` lists what was asked.

    failing: ids whose search fails    before_each: called before every result
    """

    interrupt_after: int | None = None
    kernels: str = "avx2"
    failing: set[str] = field(default_factory=set)
    before_each: Callable[[], None] = lambda: None
    seen: list[str] = field(default_factory=list)
    opened: int = 0

    def __enter__(self) -> FakeEngine:
        self.opened += 1
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def solve(self, question: str, strategy: Any, **options: Any) -> Result:
        result = next(self.solve_many([Problem("question", question)], strategy, **options))
        if result.error is not None:
            raise result.error
        return result

    def solve_many(self, problems: Any, strategy: Any, **options: Any) -> Iterator[Result]:
        options["max_in_flight"] = options.get("max_in_flight") or 2
        pair = ScriptedPair(order=random.Random(0))
        found = run(problems, strategy, pair, grade=lambda answer, gold: answer == gold, **options)
        for count, result in enumerate(found):
            if count == self.interrupt_after:
                raise KeyboardInterrupt
            self.before_each()
            self.seen.append(result.problem.id)
            if result.problem.id in self.failing:
                result = replace(result, answer=None, correct=None, votes=[], error=InputError("it is too long"))
            result.cost.flops = 1e6 * result.cost.generated_tokens
            yield result
