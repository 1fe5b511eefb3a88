"""Samples that would all be equal are drawn once and count as all; questions that come again are other samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import branchwise as bw
from branchwise.search import driver
from branchwise.strategies.equal import without_chance
from branchwise.strategies.registry import PARITY, make_strategy

QUESTION = "95+7*56-9+40=?"


@pytest.fixture(scope="module")
def engine() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=256 << 20, max_tokens=300) as made:
        yield made


GREEDY: list[dict[str, Any]] = [{"temperature": 0}, {"temperature": 1e-39}, {"top_k": 1}, {"top_p": 1e-30}]


@pytest.mark.parametrize(("name", "sampling"), [("majority", each) for each in GREEDY] + [
    (name, GREEDY[0]) for name in ("best_of_n", "weighted_best_of_n", "beam", "dvts", "rebase", "ets", "ab_mcts")
])  # fmt: skip
def test_one_stands_for_all(
    engine: bw.Engine, monkeypatch: pytest.MonkeyPatch, name: str, sampling: dict[str, Any]
) -> None:
    one = engine.solve(QUESTION, name, n=4, **sampling)
    monkeypatch.setattr(driver, "without_chance", lambda strategy: strategy)
    each = engine.solve(QUESTION, name, n=4, **sampling)
    assert (one.answer, one.text, one.score, one.scores) == (each.answer, each.text, each.score, each.scores)
    assert one.votes == each.votes
    assert [candidate.count for candidate in one.candidates] == [4]
    assert len(each.candidates) == 4
    assert 4 * one.cost.generated_tokens == each.cost.generated_tokens
    assert one.why == f"{each.why}; all 4 would be equal, so one was drawn"
    assert one.strategy == name


@pytest.mark.parametrize("name", ["adaptive", "esc", "particles", "particle_gibbs", "mcts"])
def test_one_stands_for_all_of_those_that_may_want_fewer(engine: bw.Engine, name: str) -> None:
    one, greedy = engine.solve(QUESTION, name, n=8, temperature=0), engine.solve(QUESTION, "greedy")
    assert (one.answer, one.text) == (greedy.answer, greedy.text)
    assert [candidate.count for candidate in one.candidates] == [8]
    assert one.cost.generated_tokens == greedy.cost.generated_tokens
    assert one.why.endswith("all 8 would be equal, so one was drawn")


def test_a_problem_may_be_without_chance_by_itself(engine: bw.Engine) -> None:
    greedy = bw.Problem("greedy", QUESTION, sampling=bw.Sampling(temperature=0))
    results = {each.problem.id: each for each in engine.solve_many([greedy, bw.Problem("hot", QUESTION)], n=4)}
    assert len(results["greedy"].candidates) == 1
    assert len(results["hot"].candidates) == 4


@dataclass(frozen=True)
class Ladder(bw.Majority):
    """May ask for other temperatures than the run's."""


def test_what_may_ask_otherwise_runs_as_it_is() -> None:
    parity = [make_strategy(each.name) for each in PARITY]
    for strategy in (Ladder(n=4), make_strategy("greedy"), bw.Majority(n=1), *parity):
        assert without_chance(strategy) is strategy


def test_the_same_question_again_is_another_sample(engine: bw.Engine) -> None:
    results = list(engine.solve_many([QUESTION] * 3, "majority", n=2, temperature=1.5, max_tokens=30, max_in_flight=1))
    texts = [[candidate.text for candidate in result.candidates] for result in results]
    assert len({tuple(each) for each in texts}) == 3
    alone = [engine.solve(QUESTION, "majority", n=2, temperature=1.5, max_tokens=30, seed=seed) for seed in range(3)]
    assert [[candidate.text for candidate in result.candidates] for result in alone] == texts
    pinned = [bw.Problem("q", QUESTION, seed=3)] * 2
    first, second = engine.solve_many(pinned, "majority", n=2, temperature=1.5, max_tokens=30)
    assert [each.text for each in first.candidates] == [each.text for each in second.candidates]
