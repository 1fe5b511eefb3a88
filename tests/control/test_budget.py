"""One budget for many problems, on the bundled pair: never exceeded, spent where it gains, the same in any order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

import branchwise as bw
from branchwise.assets import asset_path
from branchwise.control.budget import tokens_of
from branchwise.control.calibration import Calibration
from branchwise.errors import ConfigError, InputError, ResultsError
from branchwise.strategies.outlook import Standing
from branchwise.tree import walk

ROWS = [json.loads(line) for line in asset_path("problems.jsonl").read_text().splitlines()[:10]]
PROBLEMS = [bw.Problem(row["id"], row["problem"], answer=row["answer"]) for row in ROWS]


@pytest.fixture(scope="module")
def engine() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=256 << 20, max_tokens=200) as made:
        yield made


def spend(engine: bw.Engine, problems: Sequence[bw.Problem] = PROBLEMS, **options: Any) -> list[bw.Result]:
    return list(engine.solve_many(problems, "auto", **{"n": 16, "budget_tokens": 9_000, **options}))


def facts(results: Sequence[bw.Result]) -> dict[str, Any]:
    return {
        each.problem.id: (each.answer, each.score, each.votes, each.decisions, tokens_of(each.cost), each.correct)
        for each in results
    }


def test_it_is_not_exceeded_and_goes_to_the_doubtful(engine: bw.Engine) -> None:
    results = spend(engine)
    assert [each.problem for each in results] == PROBLEMS
    assert 6_000 < sum(tokens_of(each.cost) for each in results) <= 9_000
    sizes = [len(each.candidates) for each in results]
    assert min(sizes) == 4 < max(sizes) <= 16
    for each in results:
        assert [decision.n for decision in each.decisions][-1] == 0
        assert sum(decision.n for decision in each.decisions) == len(each.candidates)
        assert each.confidence == each.decisions[-1].right
        assert each.calibrated
    gains = {more: [each.decisions[1].gain for each in results if (len(each.decisions) > 2) == more] for more in (0, 1)}
    assert mean(gains[1]) > mean(gains[0]) + 0.05


def test_the_first_wave_is_that_of_the_search_alone_and_trees_are_whole(engine: bw.Engine) -> None:
    for each in spend(engine):
        alone = engine.solve(each.problem, "beam", n=4, expand=4)
        first = [node for node in walk(each.tree) if node.lineage_path and node.lineage_path[0] < 4]
        assert [node.text for node in first] == [node.text for node in walk(alone.tree) if node.lineage_path]
        nodes = list(walk(each.tree))
        assert [node.id for node in nodes] == list(range(len(nodes)))
        assert {candidate.node for candidate in each.candidates} <= set(nodes)
        assert len({candidate.node.lineage_path for candidate in each.candidates}) == len(each.candidates)


def test_large_waves_are_drawn_where_they_can_be_paid_and_small_ones_where_not(engine: bw.Engine) -> None:
    """A filter's copies count as solutions; without the tokens for a large wave the doubtful get a small one."""
    hard = [problem for problem in PROBLEMS if problem.id in ("arith-000", "arith-002", "arith-007")]
    chosen = {}
    for budget in (4_000, 40_000):
        results = spend(engine, hard, budget_tokens=budget)
        chosen[budget] = {decision.chosen for each in results for decision in each.decisions}
        for each in results:
            assert sum(decision.n for decision in each.decisions) == sum(one.count for one in each.candidates)
    assert "particles" in chosen[40_000]
    assert chosen[4_000] == {"tree", "stop"}


def test_where_only_a_large_wave_would_help_and_none_can_be_paid_it_ends(
    engine: bw.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gain(_: Calibration, now: Standing, kind: str, n: int) -> float:
        return 0.3 if kind == "particles" or not now.n else 0.0

    monkeypatch.setattr(Calibration, "gain", gain)
    results = spend(engine, PROBLEMS[:3], budget_tokens=4_000)
    assert [[decision.chosen for decision in each.decisions] for each in results] == [["tree", "stop"]] * 3


def test_neither_order_nor_neighbours_matter(engine: bw.Engine) -> None:
    whole = facts(spend(engine))
    assert facts(spend(engine, PROBLEMS[::-1], max_in_flight=1)) == whole
    assert facts(spend(engine, PROBLEMS[5:] + PROBLEMS[:5], max_in_flight=3)) == whole
    assert facts(spend(engine, seed=1)) != whole


def test_a_run_that_was_cut_spends_the_rest(engine: bw.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = facts(spend(engine))
    path = tmp_path / "waves"
    assert facts(spend(engine, waves=path)) == whole
    lines = path.read_bytes().splitlines(keepends=True)
    for kept in (1, 4, len(lines) // 2):
        path.write_bytes(b"".join(lines[:kept]) + lines[kept][: len(lines[kept]) // 2])  # the last one torn
        assert facts(spend(engine, waves=path)) == whole
        assert path.read_bytes().splitlines(keepends=True)[:kept] == lines[:kept]
        assert len(path.read_bytes().splitlines()) == len(lines)
    monkeypatch.setattr("branchwise.control.budget.run", lambda asked, *_, **__: [None for each in asked if 1 / 0])
    assert facts(spend(engine, waves=path)) == whole  # nothing is drawn


def test_flops_are_a_budget_too(engine: bw.Engine) -> None:
    results = spend(engine, budget_tokens=None, budget_flops=2e10)
    assert 1e10 < sum(each.cost.flops for each in results) <= 2e10


def test_waves_of_another_run_are_refused(engine: bw.Engine, tmp_path: Path) -> None:
    path = tmp_path / "waves"
    spend(engine, PROBLEMS[:2], waves=path)
    with pytest.raises(ResultsError, match="was written with budget="):
        spend(engine, PROBLEMS[:2], waves=path, budget_tokens=8_000)
    with pytest.raises(ResultsError, match="choose another file"):
        spend(engine, PROBLEMS[:2], waves=tmp_path)
    whole = path.read_text().splitlines()
    for first in ("something", "{}", '{"branchwise_waves": 1}'):
        path.write_text(f"{first}\n")
        with pytest.raises(ResultsError, match="holds no waves"):
            spend(engine, PROBLEMS[:2], waves=path)
    wave = json.loads(whole[1])
    for other, words in (
        ("something", "line 2: .*it is damaged"),
        (json.dumps({**wave, "cuts": []}), r"line 2: .*cuts is \[\], expected an object"),
        (json.dumps({**wave, "candidates": [{**wave["candidates"][0], "path": []}]}), r"line 2: .*its path is \[\]"),
    ):
        path.write_text(f"{whole[0]}\n{other}\n")
        with pytest.raises(ResultsError, match=words):
            spend(engine, PROBLEMS[:2], waves=path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget_tokens": 1_000}, "a wave of 4 solutions takes about .* raise it, take fewer problems, or a smaller"),
        (
            {"budget_tokens": 100},
            "the budget of 100 tokens does not hold one wave of 4 solutions for one of 10 problems",
        ),
        ({"budget_tokens": 0}, "budget_tokens=0: expected a number of at least 1"),
        ({"budget_flops": 1e9}, "were both given: expected one of them"),
        ({"budget_tokens": True}, "budget_tokens=True"),
    ],
)
def test_budgets_that_cannot_work(engine: bw.Engine, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        spend(engine, **options)


def test_only_auto_spends_and_problems_bring_no_strategy(engine: bw.Engine) -> None:
    with pytest.raises(ConfigError, match="is spent by the strategy 'auto', not by 'beam'"):
        engine.solve_many(PROBLEMS, "beam", budget_tokens=1000)
    with pytest.raises(ConfigError, match="problem 'p' brings a strategy"):
        engine.solve_many([bw.Problem("p", "1+1=?", strategy=bw.Greedy())], "auto", budget_tokens=1000)
    with pytest.raises(InputError, match="a problem is 7"):
        engine.solve_many([7], "auto", budget_tokens=1000)  # type: ignore[list-item]
    assert spend(engine, []) == []


def test_auto_is_the_same_alone_and_beside_others(engine: bw.Engine) -> None:
    alone = {problem.id: facts([engine.solve(problem, "auto", reuse=False)]) for problem in PROBLEMS[:4]}
    beside = list(engine.solve_many(PROBLEMS[:4], "auto", reuse=False))
    assert {each.problem.id: facts([each]) for each in beside} == alone


def test_a_doubtful_answer_says_so(engine: bw.Engine) -> None:
    doubtful, sure = engine.solve("1+1=?", "beam", n=4), engine.solve(PROBLEMS[1], "beam", n=4)
    assert doubtful.confidence is not None
    assert sure.confidence is not None
    assert doubtful.calibrated
    assert doubtful.confidence < 0.1 < 0.5 < sure.confidence
    votes = engine.solve("1+1=?", "majority", n=4)
    assert not votes.calibrated
    assert votes.confidence is not None
