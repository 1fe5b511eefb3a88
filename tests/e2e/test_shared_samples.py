"""What strategies share is what each would draw alone, with real models: prefixes of n, with and without a judge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import branchwise as bw
from branchwise.assets import asset_path
from branchwise.cli.problems import read_rows
from branchwise.cli.records import result_record
from branchwise.report.again import Rule, retake
from branchwise.types import Problem
from records import kept, record

N = 6
VOTED = ("id", "answer", "correct", "score", "votes", "cuts", "equal")
UNJUDGED = ("generated_tokens", "prefill_tokens", "prm_tokens", "flops", "prm_flops")


@pytest.fixture(scope="module")
def engine() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=256 << 20, max_tokens=200, seed=3, prefix_cache=False) as made:
        yield made


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return [row for row in read_rows(asset_path("problems.jsonl"), 6) if isinstance(row, Problem)]


def found(engine: bw.Engine, problems: list[Problem], strategy: bw.Strategy, **options: Any) -> dict[str, Any]:
    return {
        result.problem.id: result_record(result, 0.0) for result in engine.solve_many(problems, strategy, **options)
    }


def ends(records: dict[str, Any], n: int) -> Any:
    """The first n candidates, without their scores."""
    return {id_: [(each["path"], each["answer"], each["tokens"], each["finish"]) for each in record["candidates"][:n]]
            for id_, record in records.items()}  # fmt: skip


WANTED = [
    (bw.Majority(n=N), Rule(N, "last", "majority", False, True)),
    (bw.Majority(n=2), Rule(2, "last", "majority", False, True)),
    (bw.BestOfN(n=3, aggregate="min"), Rule(3, "min", "max", True, True)),
    (bw.WeightedBestOfN(n=N, aggregate="mean"), Rule(N, "mean", "weighted", True, True)),
    (bw.BestOfN(n=4, vote="majority", aggregate="prod"), Rule(4, "prod", "majority", True, True)),
]


def test_fewer_samples_and_those_without_a_judge_are_the_same(engine: bw.Engine, problems: list[Problem]) -> None:
    have = Rule(N, "last", "max", True, True)
    source = found(engine, problems, bw.BestOfN(n=N))
    grade = lambda answer, gold: answer == gold  # noqa: E731
    for strategy, want in WANTED:
        alone = found(engine, problems, strategy, max_in_flight=1)
        assert ends(alone, want.n) == ends(source, want.n)
        for id_, drawn in source.items():
            made = retake(drawn, have, want, grade)
            assert made is not None
            fresh, again = alone[id_], dict(made)
            assert {name: again[name] for name in VOTED} == {name: fresh[name] for name in VOTED}
            if not want.judged:
                assert {name: made["cost"][name] for name in UNJUDGED} == {
                    name: fresh["cost"][name] for name in UNJUDGED
                }
            else:  # how often the judge reads a step again depends on which branches are still held
                assert made["cost"]["generated_tokens"] == fresh["cost"]["generated_tokens"]
                assert made["cost"]["prm_tokens"] == pytest.approx(fresh["cost"]["prm_tokens"], rel=0.1)


def test_what_the_judges_context_cut_is_no_sample_of_a_search_without_one() -> None:
    drawn = kept(score=0.5, scores=[0.5], finish="length", cut="prm_context")
    made = record(cuts={"prm_context": 1}, candidates=[drawn])
    for want in (Rule(1, "last", "majority", False, True), Rule(1, "last", "max", True, True)):
        assert retake(made, Rule(2, "last", "max", True, True), want, str.__eq__) is None  # type: ignore[arg-type]


def test_the_tokens_of_every_step_are_kept(engine: bw.Engine, problems: list[Problem]) -> None:
    result = engine.solve(problems[0], bw.BestOfN(n=3))
    drawn = result_record(result, 0.0)["candidates"]
    assert [each["steps"] for each in drawn] == [[s.tokens for s in c.node.path] for c in result.candidates]
    assert [sum(map(len, each["steps"])) for each in drawn] == [each["tokens"] for each in drawn]
