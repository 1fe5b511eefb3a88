"""The driver: many searches at once, admission, progress, and nothing left open however it ends."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwise.errors import CheckpointError, ConfigError, InputError, OutOfMemory
from branchwise.search import BeamSearch, BestOfN, Greedy, Majority, Progress, run
from branchwise.search.metrics import every_choice
from branchwise.search.tree import walk
from branchwise.types import Expand, Expanded, Problem, Sampling, SearchState, Strategy
from search.scripted import STRATEGIES, Script, ScriptedEngine, shape

BEAM = BeamSearch(n=4, expand=2, max_steps=5)


def problems(count: int) -> list[Problem]:
    return [Problem(f"p{index}", f"text {index}", answer=str(index % 3)) for index in range(count)]


@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 999), st.sampled_from(STRATEGIES), st.integers(8, 40))
def test_results_are_the_same_for_any_load(
    count: int, max_in_flight: int, order: int, strategy: Strategy, room: int
) -> None:
    alone = {
        problem.id: shape(next(run([problem], strategy, ScriptedEngine(), max_in_flight=1)))
        for problem in problems(count)
    }
    engine = ScriptedEngine(order=random.Random(order), room=room)
    together = {
        result.problem.id: shape(result)
        for result in run(problems(count), strategy, engine, max_in_flight=max_in_flight)
    }
    assert together == alone
    assert engine.most_open <= max_in_flight
    assert engine.open_trees == []


def test_results_stream_and_problems_are_taken_when_needed() -> None:
    taken: list[str] = []

    def source() -> object:
        for problem in problems(20):
            taken.append(problem.id)
            yield problem

    engine = ScriptedEngine()
    results = run(source(), BEAM, engine, max_in_flight=3)  # type: ignore[arg-type]
    assert taken == []
    next(results)
    assert len(taken) == 3
    assert len(list(results)) == 19
    assert engine.most_open == 3


def test_admission_waits_for_room() -> None:
    engine = ScriptedEngine(room=10)
    results = list(run(problems(9), BEAM, engine, max_in_flight=8))
    assert sorted(result.problem.id for result in results) == sorted(problem.id for problem in problems(9))
    assert engine.most_open == 2
    assert engine.refusals < 20


def test_no_room_at_all_is_an_error() -> None:
    engine = ScriptedEngine(room=3)
    with pytest.raises(OutOfMemory, match=r"'p0' with n=4.*lower n"):
        list(run(problems(2), BEAM, engine, max_in_flight=2))


def test_duplicate_problems_are_solved_each() -> None:
    twice = [*problems(2), *problems(2)]
    results = list(run(twice, BEAM, ScriptedEngine(order=random.Random(5)), max_in_flight=3))
    assert Counter(result.problem.id for result in results) == {"p0": 2, "p1": 2}
    by_id = {result.problem.id: shape(result) for result in results}
    assert all(shape(result) == by_id[result.problem.id] for result in results)


def test_no_problem_no_result() -> None:
    assert list(run([], BEAM, ScriptedEngine(), max_in_flight=4)) == []


def test_temperature_seed_and_reservation_reach_the_engine() -> None:
    engine = ScriptedEngine()
    asked = [Problem("a", "a"), Problem("b", "b", seed=7)]
    sampling = Sampling(temperature=0.6, top_p=0.9)
    list(run(asked, BEAM, engine, max_in_flight=1, sampling=sampling, seed=3))
    list(run(asked, Greedy(), engine, max_in_flight=1, sampling=sampling, seed=3))
    assert [tree.seed for tree in engine.trees] == [3, 7, 3, 7]
    assert [tree.reserved for tree in engine.trees] == [4, 4, 1, 1]
    assert [tree.max_steps for tree in engine.trees] == [5, 5, 40, 40]
    assert [tree.use_scores for tree in engine.trees] == [True, True, False, False]
    assert engine.trees[0].sampling == sampling
    assert engine.trees[2].sampling == Sampling(temperature=0.0, top_p=0.9)


def test_result_fields() -> None:
    script = Script(eos=50)
    (result,) = run(
        [Problem("p", "p", answer="1")], BEAM, ScriptedEngine(script), max_in_flight=1, grade=lambda a, gold: a == gold
    )
    assert result.strategy == "beam"
    assert result.correct == (result.answer == "1")
    assert result.cost.seconds > 0
    assert result.cost.generated_tokens == len(list(walk(result.tree))) - 1
    assert result.cost.prefill_tokens == 7  # what `close` leaves in the root's record
    assert result.votes[0][0] == result.answer
    assert result.why.startswith("weighted")
    (ungraded,) = run([Problem("p", "p", answer="1")], BEAM, ScriptedEngine(script), max_in_flight=1)
    assert ungraded.correct is None


def test_every_choice_names_all_metrics() -> None:
    (result,) = run(problems(1), BestOfN(n=8), ScriptedEngine(Script(eos=40)), max_in_flight=1)
    choices = every_choice(result.candidates)
    kinds = ("last", "min", "prod", "mean")
    assert set(choices) == {"majority", *(f"{kind}_{rule}" for kind in kinds for rule in ("max", "vote"))}
    assert choices["last_max"].chosen is not None
    assert choices["last_max"].chosen.answer == result.answer
    (unscored,) = run(problems(1), Majority(n=8), ScriptedEngine(), max_in_flight=1)
    assert set(every_choice(unscored.candidates)) == {"majority"}


def test_progress_tells_the_story_of_every_node() -> None:
    told: list[Progress] = []
    results = list(run(problems(3), BEAM, ScriptedEngine(), max_in_flight=2, on_event=told.append))
    for result in results:
        nodes = list(walk(result.tree))
        mine = [event for event in told if event.node in set(nodes)]
        assert mine[0].kind == "started"
        assert mine[-1].kind == "finished"
        assert mine[-1].result is result
        kinds = Counter(event.kind for event in mine)
        assert kinds["generated"] == kinds["scored"] == len(nodes) - 1
        assert {event.node for event in mine if event.kind == "pruned"} == {node for node in nodes if node.pruned}


def test_nan_score_is_refused_by_name() -> None:
    engine = ScriptedEngine(nan_at=(2,))
    with pytest.raises(CheckpointError, match=r"'p0', step \(2,\).*nan"):
        list(run(problems(3), BEAM, engine, max_in_flight=3))
    assert engine.open_trees == []


def test_missing_score_is_refused() -> None:
    class Forgetful(ScriptedEngine):
        def _complete(self, event: object) -> None:
            super()._complete(event)  # type: ignore[arg-type]
            event.node.score = None  # type: ignore[attr-defined]

    with pytest.raises(CheckpointError, match="None"):
        list(run(problems(1), BEAM, Forgetful(), max_in_flight=1))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", ["started", "generated", "scored", "pruned", "finished"])
def test_an_error_in_the_callback_closes_every_tree(kind: str, error: type[BaseException]) -> None:
    def fail(event: Progress) -> None:
        if event.kind == kind:
            raise error("from the callback")

    engine = ScriptedEngine()
    with pytest.raises(error, match="from the callback"):
        list(run(problems(5), BEAM, engine, max_in_flight=3, on_event=fail))
    assert engine.trees
    assert engine.open_trees == []


def test_an_interrupted_engine_a_bad_grader_and_a_caller_who_stops_close_every_tree() -> None:
    class Interrupted(ScriptedEngine):
        def poll(self) -> list[object]:  # type: ignore[override]
            if self.polls > 3:
                raise KeyboardInterrupt
            return super().poll()  # type: ignore[return-value]

    def refuse(answer: str | None, gold: str) -> bool:
        raise InputError(gold)

    engine: ScriptedEngine = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        list(run(problems(5), BEAM, engine, max_in_flight=3))
    assert engine.open_trees == []
    engine = ScriptedEngine()
    with pytest.raises(InputError):
        list(run(problems(5), BEAM, engine, max_in_flight=3, grade=refuse))
    assert engine.open_trees == []
    engine = ScriptedEngine()
    results = run(problems(5), BEAM, engine, max_in_flight=3)
    next(results)
    assert engine.open_trees
    results.close()  # type: ignore[attr-defined]
    assert engine.open_trees == []


def test_a_failing_close_does_not_keep_the_others_open() -> None:
    class Stubborn(ScriptedEngine):
        def close(self, tree: object) -> None:
            super().close(tree)  # type: ignore[arg-type]
            if tree is self.trees[0]:
                raise RuntimeError("close")

    def stop(event: Progress) -> None:
        if event.kind == "scored":
            raise KeyboardInterrupt

    engine = Stubborn()
    with pytest.raises(RuntimeError, match="close"):
        list(run(problems(3), BEAM, engine, max_in_flight=3, on_event=stop))
    assert engine.open_trees == []


def test_one_run_at_a_time() -> None:
    engine = ScriptedEngine(Script(eos=0, length=0))
    first = run(problems(4), BEAM, engine, max_in_flight=4)
    next(first)
    with pytest.raises(ConfigError, match="exhaust or close"):
        list(run(problems(1), BeamSearch(n=4, expand=2, max_steps=40), engine, max_in_flight=1))


def test_max_in_flight_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="max_in_flight is 0"):
        run(problems(1), BEAM, ScriptedEngine(), max_in_flight=0)


@dataclass(frozen=True)
class Greedier(Majority):
    """Asks for more than its budget."""

    def propose(self, state: SearchState) -> list[Expand]:
        return [Expand(state.root, self.n + 1)]


@dataclass(frozen=True)
class Ordered(BeamSearch):
    """Checks what it observes, and counts it."""

    observed: Counter[str] = field(default_factory=Counter)

    def observe(self, state: SearchState, results: list[Expanded]) -> None:
        for result in results:
            assert [child.index for child in result.children] == sorted(child.index for child in result.children)
            assert all(child.parent is result.node and child.score is not None for child in result.children)
            self.observed[state.problem.id] += 1
        BeamSearch.observe(self, state, results)


@given(st.integers(0, 99))
def test_children_are_observed_complete_and_in_order(order: int) -> None:
    strategy = Ordered(n=8, expand=4)
    list(run(problems(2), strategy, ScriptedEngine(order=random.Random(order)), max_in_flight=2))
    assert set(strategy.observed) == {"p0", "p1"}


@dataclass(frozen=True)
class Silent(Majority):
    """Asks for nothing."""

    def propose(self, state: SearchState) -> list[Expand]:
        return []


def test_a_strategy_over_its_budget_is_refused() -> None:
    engine = ScriptedEngine()
    with pytest.raises(ConfigError, match=r"wants 4 steps at once.*n=3"):
        list(run(problems(1), Greedier(n=3), engine, max_in_flight=1))
    assert engine.open_trees == []


def test_a_strategy_that_asks_for_nothing_is_over() -> None:
    results = list(run(problems(3), Silent(n=3), ScriptedEngine(), max_in_flight=2))
    assert [(result.answer, result.candidates) for result in results] == [(None, [])] * 3


@dataclass(frozen=True)
class Keeper(Majority):
    """Says how many branches it keeps."""

    kept: int = 0


@pytest.mark.parametrize("kept", [0, 5])
def test_a_strategy_cannot_keep_more_than_it_grows(kept: int) -> None:
    with pytest.raises(ConfigError, match=f"kept={kept}: expected 1 to its n=4"):
        run(problems(1), Keeper(n=4, kept=kept), ScriptedEngine(), max_in_flight=1)
