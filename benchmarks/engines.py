"""What benchmarks ask of an engine: branches that end after so many tokens, and searches that all go well."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from branchwise.assets import asset_path
from branchwise.confidence import ConfidenceOptions
from branchwise.engine.engine import StepEngine
from branchwise.types import Endings, Problem, Result, Sampling, Settings, StepOptions

NEVER = Endings((), ignore_eos=True)  # but for the caps


@contextmanager
def growing(
    policy: StepEngine, prompt: Sequence[int], rows: int, tokens: int, sampling: Sampling, seed: int = 0,
    confidence: ConfidenceOptions | None = None, states: bool = False,
) -> Iterator[None]:  # fmt: skip
    """`rows` branches of `tokens` tokens under a prompt, queued; the end-of-sequence token is one like any other."""
    settings = Settings(
        sampling, NEVER, max_tokens=tokens, max_step_tokens=tokens, seed=seed, reuse=False, states=states
    )  # fmt: skip
    tree = policy.open(prompt, lineage=1, branches=rows, paths=rows, steps=1, settings=settings)
    assert tree is not None
    policy.expand(tree, tree.root, rows, StepOptions(sampling, NEVER, tokens, confidence=confidence))
    try:
        yield
    finally:
        policy.close(tree)


def checked(results: Iterable[Result]) -> list[Result]:
    """All results; raises what made a search fail, for the numbers of the others are worth nothing then."""
    done = []
    for result in results:
        if result.error is not None:
            raise result.error
        done.append(result)
    return done


def bundled_problems(count: int) -> list[Problem]:
    """The first held-out problems."""
    lines = asset_path("problems.jsonl").read_text().splitlines()[:count]
    return [Problem(each["id"], each["problem"], answer=each["answer"]) for each in map(json.loads, lines)]
