"""The trees, votes and answers of the six strategies, as recorded: a change of a rule must be meant.

Recorded from scripted pairs, so they hold on any machine. `python tests/strategies/test_golden.py` records them anew.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest

from branchwise.strategies import Limits, Strategy
from branchwise.types import Problem
from search.scripted import STRATEGIES, Script, ScriptedPair, run, shape

GOLDEN = Path(__file__).with_name("golden.json")
SCRIPTS = [
    Script(),
    Script(eos=0, length=0),
    Script(eos=10, scores=1),
    Script(eos=30, length=10, scores=9),
]


def digests(script: Script, strategy: Strategy, order: int) -> list[str]:
    """One for each of six problems: of all that may not depend on timing."""
    pair = ScriptedPair(script, random.Random(order))
    problems = [Problem(f"p{i}", f"text {i}") for i in range(6)]
    results = sorted(run(problems, strategy, pair, max_in_flight=3), key=lambda result: result.problem.id)
    return [hashlib.blake2b(repr(shape(result)).encode(), digest_size=6).hexdigest() for result in results]


CASES = {
    f"{place}/{strategy.name}-{strategy.demand(Limits(2048, 512)).branches}": (script, strategy)
    for place, script in enumerate(SCRIPTS)
    for strategy in STRATEGIES
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_search_as_ever(name: str) -> None:
    assert digests(*CASES[name], order=len(name)) == json.loads(GOLDEN.read_text())[name]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: digests(*case, order=0) for name, case in CASES.items()}, indent=0) + "\n")
