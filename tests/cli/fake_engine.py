"""An engine without models for command line tests: the real driver over a scripted pair."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from branchwise.confidence import ConfidenceOptions
from branchwise.errors import InputError
from branchwise.pair.protocol import Event
from branchwise.types import Problem, Result, Sampling, Settings
from search.scripted import ScriptedPair, run


class SeededPair(ScriptedPair):
    """Its texts depend on the seed, and greedy steps do not; every token costs something."""

    def _complete(self, event: Event) -> None:
        tree, node = event.tree, event.node
        greedy = bool(tree.options) and tree.options[0].sampling.is_greedy
        about = tree.problem
        tree.problem = replace(about, text=f"{about.text}|{'greedy' if greedy else tree.settings.seed}")
        super()._complete(event)
        tree.problem = about
        if event.kind == "scored":
            node.cost.prm_tokens, node.cost.prm_flops = 2, 4e5
            node.cost.flops += node.cost.prm_flops
        else:
            node.cost.flops += 1e6


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
    sampling: Sampling = field(default_factory=Sampling)
    confidence: ConfidenceOptions | None = None

    def open(self, options: Any) -> FakeEngine:
        """Stands for `models.open_engine`."""
        self.sampling = Sampling(temperature=options.temperature)
        self.confidence = options.engine_config().confidence
        return self

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
        settings = Settings(self.sampling, seed=options.pop("seed", None) or 0, confidence=self.confidence)
        pair = SeededPair(order=random.Random(0))
        found = run(problems, strategy, pair, grade=lambda answer, gold: answer == gold, settings=settings, **options)
        for count, result in enumerate(found):
            if count == self.interrupt_after:
                raise KeyboardInterrupt
            self.before_each()
            self.seen.append(result.problem.id)
            if result.problem.id in self.failing:
                result = replace(result, answer=None, correct=None, votes=[], error=InputError("it is too long"))
            yield result
