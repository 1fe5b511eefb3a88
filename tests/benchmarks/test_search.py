"""What the benchmarks of whole searches rest on: recordings replay as they were, and PRM tokens add up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import branchwise as bw
from benchmarks.engines import bundled_problems, checked
from benchmarks.search.bench_by_hand import by_hand, solved
from benchmarks.search.bench_occupancy import RowCounter, repeated, search
from benchmarks.search.bench_prm import full_batches, prefill, token_terms, watch
from benchmarks.search.replay import SETTINGS, Recording, record, replay_pair
from branchwise.search.driver import run
from branchwise.search.protocol import Progress
from branchwise.search.service import Service
from branchwise.search.session import SearchOptions
from branchwise.strategies import DVTS, BeamSearch, Strategy
from branchwise.types import Result, Settings


@pytest.fixture(scope="module")
def engine() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=512 << 20, max_rows=16, max_tokens=128, prefix_cache=False) as engine:
        yield engine


def scores_by_path(result: Result) -> dict[tuple[int, ...], list[float]]:
    return {each.node.lineage_path: each.scores for each in result.candidates}


@pytest.mark.parametrize("strategy", [BeamSearch(n=8, expand=4), DVTS(n=8, expand=4)], ids=["beam", "dvts"])
def test_a_recording_replays_the_same_trees_on_any_rows(engine: bw.Engine, strategy: Strategy) -> None:
    problems = [replace(problem, seed=7) for problem in bundled_problems(3)]
    live = SearchOptions(strategy, Settings(max_tokens=128, reuse=False))
    results, counts = search(engine.pair, problems, live, in_flight=2, max_rows=16)
    recording = Recording(record(engine, results))
    for rows in (4, 16, 64):
        pair = replay_pair(recording, max_rows=rows)
        replayed, again = search(pair, recording.problems, SearchOptions(strategy, SETTINGS), 2, rows)
        assert again["tokens"] == counts["tokens"] == sum(result.cost.generated_tokens for result in results)
        by_id = {result.problem.id: result for result in replayed}
        for result in results:
            mine = by_id[result.problem.id]
            assert scores_by_path(mine) == scores_by_path(result)
        if rows == 16:  # the schedule, too, but for the models' sizes, which say when a pass is due
            assert again["iterations"] == pytest.approx(counts["iterations"], rel=0.05)
        assert 0.0 < again["occupancy"] <= 1.0


def test_the_prm_is_fed_every_token_once(engine: bw.Engine) -> None:
    assert engine.judge is not None
    seen = watch(engine.judge)
    results = checked(engine.solve_many(bundled_problems(3), "beam", n=8, expand=4, max_in_flight=2))
    terms = token_terms(engine.judge, results)
    expected = terms["prompts"] + terms["generated"] + terms["format"] + terms["recut"]
    assert sum(seen.rows) == expected - terms["shared"] - terms["blank"]
    assert terms["shared"] > 0  # siblings do agree word for word
    assert terms["format"] > 0
    batches = list(full_batches(sum(seen.rows), 100))
    assert sum(batches) == sum(seen.rows)
    prefill(engine.judge, batches, 70)
    assert sum(seen.rows) == 2 * (expected - terms["shared"] - terms["blank"])


def test_a_search_by_hand_grows_the_same_trees(engine: bw.Engine) -> None:
    questions = [problem.text for problem in bundled_problems(3)]
    beam = BeamSearch(n=8, expand=4)
    found = solved(engine, questions, beam, seed=3)
    assert found == by_hand(engine, questions, beam, seed=3)
    assert set(found) == set(questions)


def made_up(name: str, levels: list[list[tuple[int, int]]], group: int = 4) -> dict[str, Any]:
    """A recorded problem: of every level and group (tokens of a step, groups); the first child of a group is best."""
    steps: dict[str, list[Any]] = {}
    kept = [""] * len(levels[0])
    for depth, lengths in enumerate(levels):
        for place, (tokens, children) in enumerate(lengths):
            first = place * group if depth == 0 else 0
            paths = [f"{kept[place]}{index}" for index in range(first, first + children)]
            for rank, path in enumerate(paths):
                steps[path] = [tokens, tokens, 1.0 / (1 + rank), depth + 1 == len(levels), path]
            kept[place] = paths[0] + "."
    return {"id": name, "prompt": 10, "prm_prompt": 10, "steps": steps}


def told(problems: list[dict[str, Any]], strategy: Strategy, rows: int = 64) -> tuple[list[str], dict[str, Any]]:
    """Problem and path of every step in the order in which they were done, and the counts of the run."""
    recording, order = Recording(problems), []

    def listen(progress: Progress) -> None:
        if progress.kind == "generated":
            order.append(f"{progress.problem.id}:{'.'.join(map(str, progress.node.lineage_path))}")

    pair = replay_pair(recording, max_rows=rows)
    counter = RowCounter(pair)
    options = SearchOptions(strategy, SETTINGS, on_event=listen)
    checked(run(recording.problems, Service(pair), options, max_in_flight=len(problems)))
    return order, {"iterations": len(counter.rows), "passes": counter.passes}


def test_a_subtree_goes_on_when_its_own_steps_are_scored() -> None:
    quick_and_slow = [(5, 4), (150, 4)]
    order, counts = told([made_up("p", [quick_and_slow] * 3)], DVTS(n=8, expand=4))
    assert order.index("p:0.0.0") < order.index("p:4")  # the last level of one before the first of the other
    assert counts["iterations"] < 3 * 150 + 10


def test_a_problem_that_waits_for_scores_alone_gets_them_while_others_decode() -> None:
    quick, slow = made_up("quick", [[(10, 4)]] * 4), made_up("slow", [[(200, 4)]])
    order, counts = told([quick, slow], BeamSearch(n=4, expand=4))
    assert order.index("quick:0.0.0.3") < order.index("slow:0")
    assert counts["iterations"] <= 205


def test_steps_that_end_together_are_scored_together() -> None:
    levels = [[(31, 4)] * 16] * 4  # of every level 1,984 tokens, not quite four passes
    _, counts = told([made_up("p", levels)], DVTS(n=64, expand=4))
    assert counts["passes"] == [10, *[512, 512, 512, 448] * 4]
    assert counts["iterations"] == 4 * 31  # nobody falls behind for want of a last, smaller pass


def test_a_repeated_recording_is_the_same_work_so_many_times() -> None:
    lone = made_up("p", [[(20, 4)]] * 2)
    once, thrice = (told(repeated([lone], times), BeamSearch(n=4, expand=4)) for times in (1, 3))
    assert len(thrice[0]) == len(set(thrice[0])) == 3 * len(once[0])
    assert sum(thrice[1]["passes"]) == 3 * sum(once[1]["passes"])


def test_early_finishers_wait_for_a_full_pass_while_nobody_needs_their_scores() -> None:
    lone = made_up("p", [[(40, 4)]] * 3)
    for index, path in enumerate(("0", "1", "2", "3")):
        lone["steps"][path][:2] = [10 + 20 * index] * 2  # 160 tokens, worth more than one small pass
        lone["steps"][f"{0}.{index}"][:2] = [50 + 5 * index] * 2  # 230: no pass more than these ends up nearly full
    _, counts = told([lone], BeamSearch(n=4, expand=4))
    assert counts["passes"] == [10, 160, 230, 160]  # the prompt, then one a level
