"""What the benchmarks of whole searches rest on: recordings replay as they were, and PRM tokens add up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

import branchwise as bw
from benchmarks.gpu.searches import bundled_problems
from benchmarks.search.bench_occupancy import search
from benchmarks.search.bench_prm import full_batches, prefill, token_terms, watch
from benchmarks.search.replay import Recording, record, replay_engine
from branchwise.search import DVTS, BeamSearch
from branchwise.types import Result, Strategy


@pytest.fixture(scope="module")
def engine() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=64 << 20, max_rows=16) as engine:
        yield engine


def scores_by_path(result: Result) -> dict[tuple[int, ...], list[float]]:
    return {each.node.lineage_path: each.scores for each in result.candidates}


@pytest.mark.parametrize("strategy", [BeamSearch(n=8, expand=4), DVTS(n=8, expand=4)], ids=["beam", "dvts"])
def test_a_recording_replays_the_same_trees_on_any_rows(engine: bw.Engine, strategy: Strategy) -> None:
    problems = [replace(problem, seed=7) for problem in bundled_problems(3)]
    results, counts = search(engine.backend, problems, strategy, in_flight=2, max_rows=16)
    recorded = record(engine, results)
    recording = Recording(recorded)
    for rows in (4, 16, 64):
        replayed, again = search(replay_engine(recording, max_rows=rows), recording.problems, strategy, 2, rows)
        assert again["tokens"] == counts["tokens"] == sum(result.cost.generated_tokens for result in results)
        by_id = {result.problem.id: result for result in replayed}
        for result in results:
            mine = by_id[result.problem.id]
            assert scores_by_path(mine) == scores_by_path(result)
        if rows == 16:  # the schedule, too; what the PRM shares depends on it
            assert again == counts
        assert 0.0 < again["occupancy"] <= 1.0


def test_the_prm_is_fed_every_token_once(engine: bw.Engine) -> None:
    assert engine.scorer is not None
    seen = watch(engine.scorer)
    results = list(engine.solve_many(bundled_problems(3), "beam", n=8, expand=4, max_in_flight=2))
    terms = token_terms(engine.scorer, results)
    expected = terms["prompts"] + terms["generated"] + terms["format"] + terms["recut"]
    assert sum(seen.rows) == expected - terms["shared"] - terms["blank"]
    assert terms["shared"] > 0  # siblings do agree word for word
    assert terms["format"] > 0
    batches = list(full_batches(sum(seen.rows), 100))
    assert sum(batches) == sum(seen.rows)
    prefill(engine.scorer, batches, 70)
    assert sum(seen.rows) == 2 * (expected - terms["shared"] - terms["blank"])
