"""Speculation through the public engine: the bundled pair finds the same trees with and without it."""

from __future__ import annotations

import pytest

import branchwise as bw
from branchwise.strategies.registry import STRATEGIES
from e2e.test_bundled_pair import facts, options

QUESTIONS = ["12+3*4-5+60=?", "7*8+5-20=?", "(31+4)*2-9=?", "90-4*7+11=?"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_finds_the_same_tree(name: str) -> None:
    found = []
    for speculate, max_rows, in_flight in ((False, 64, 1), (True, 64, 1), (True, 10, 3)):
        with bw.Engine(kv_memory=256 << 20, max_tokens=300, max_rows=max_rows, speculate=speculate) as engine:
            results = list(engine.solve_many(QUESTIONS, name, max_in_flight=in_flight, **options(name)))
            assert engine.policy.kv.free_blocks == engine.policy.kv.n_blocks
            assert speculate or not any(result.cost.speculated_tokens for result in results)
        found.append({result.problem.id: facts(result) for result in results})
        if speculate and name == "dvts":
            assert any(result.cost.speculated_tokens for result in results)
    assert found[1] == found[0]
    assert found[2] == found[0]


def test_steps_by_hand_are_never_written_ahead() -> None:
    with bw.Engine(kv_memory=256 << 20, speculate=True) as engine, engine.open("12+3*4-5=?") as tree:
        tree.expand(tree.root, n=4)
        assert not engine.policy.rows.needs_host
        assert not engine.policy.rows.ahead.children
