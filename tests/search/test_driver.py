"""The driver: many searches at once, admission, progress, and nothing left open however it ends."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwise.errors import CheckpointError, ConfigError, InputError, OutOfMemory, StrategyError
from branchwise.search.protocol import Progress
from branchwise.strategies import Ask, BeamSearch, Greedy, Majority, Reply, State, Strategy
from branchwise.strategies.protocol import Action
from branchwise.tree import walk
from branchwise.types import Problem, Sampling, Settings
from search.scripted import STRATEGIES, Script, ScriptedPair, run, shape

BEAM = BeamSearch(n=4, expand=2, max_steps=5)


def problems(count: int) -> list[Problem]:
    return [Problem(f"p{index}", f"text {index}", answer=str(index % 3)) for index in range(count)]


@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 999), st.sampled_from(STRATEGIES), st.integers(8, 40))
def test_results_are_the_same_for_any_load(
    count: int, max_in_flight: int, order: int, strategy: Strategy, room: int
) -> None:
    alone = {
        problem.id: shape(next(run([problem], strategy, ScriptedPair(), max_in_flight=1)))
        for problem in problems(count)
    }
    engine = ScriptedPair(order=random.Random(order), room=room)
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

    engine = ScriptedPair()
    results = run(source(), BEAM, engine, max_in_flight=3)  # type: ignore[arg-type]
    assert taken == []
    next(results)
    assert len(taken) == 3
    assert len(list(results)) == 19
    assert engine.most_open == 3


def test_admission_waits_for_room() -> None:
    engine = ScriptedPair(room=10)
    results = list(run(problems(9), BEAM, engine, max_in_flight=8))
    assert sorted(result.problem.id for result in results) == sorted(problem.id for problem in problems(9))
    assert engine.most_open == 2
    assert engine.refusals < 20


def test_no_room_at_all_is_an_error_of_that_problem() -> None:
    pair = ScriptedPair(room=3)
    results = list(run(problems(2), BEAM, pair, max_in_flight=2))
    assert [(type(result.error), result.answer) for result in results] == [(OutOfMemory, None)] * 2


def test_one_problem_that_cannot_fit_harms_no_other() -> None:
    alone = {result.problem.id: shape(result) for result in run(problems(3), BEAM, ScriptedPair(), max_in_flight=1)}
    large = Problem("large", "large", strategy=Majority(n=99))
    results = {
        each.problem.id: each for each in run([large, *problems(3)], BEAM, ScriptedPair(room=8), max_in_flight=4)
    }
    assert isinstance(results.pop("large").error, OutOfMemory)
    assert {id: shape(result) for id, result in results.items()} == alone


def test_duplicate_problems_are_solved_each() -> None:
    twice = [*problems(2), *problems(2)]
    results = list(run(twice, BEAM, ScriptedPair(order=random.Random(5)), max_in_flight=3))
    assert Counter(result.problem.id for result in results) == {"p0": 2, "p1": 2}
    by_id = {result.problem.id: shape(result) for result in results}
    assert all(shape(result) == by_id[result.problem.id] for result in results)  # the script knows no seeds


def test_no_problem_no_result() -> None:
    assert list(run([], BEAM, ScriptedPair(), max_in_flight=4)) == []


def test_settings_and_demand_reach_the_pair() -> None:
    pair = ScriptedPair()
    asked = [Problem("a", "a"), Problem("b", "b", seed=7, sampling=Sampling(1.5), strategy=Majority(n=2))]
    sampling = Sampling(temperature=0.6, top_p=0.9)
    list(run(asked, BEAM, pair, settings=Settings(sampling, seed=3)))
    list(run(asked[:1], Greedy(), pair, settings=Settings(sampling, seed=3)))
    assert [tree.settings.seed for tree in pair.trees] == [3, 7, 3]
    assert [tree.demand.branches for tree in pair.trees] == [4, 2, 1]
    assert [tree.demand.steps for tree in pair.trees] == [5, None, None]
    assert [tree.demand.scores for tree in pair.trees] == [True, False, False]
    assert [tree.settings.sampling for tree in pair.trees] == [sampling, Sampling(1.5), sampling]
    drawn = [{options.sampling for options in tree.options} for tree in pair.trees]
    assert drawn == [{sampling}, {Sampling(1.5)}, {Sampling(temperature=0.0)}]


def test_result_fields() -> None:
    script = Script(eos=50)
    (result,) = run(
        [Problem("p", "p", answer="1")], BEAM, ScriptedPair(script), max_in_flight=1, grade=lambda a, gold: a == gold
    )
    assert result.strategy == "beam"
    assert result.correct == (result.answer == "1")
    assert result.cost.seconds > 0
    assert result.cost.generated_tokens == len(list(walk(result.tree))) - 1
    assert result.cost.prefill_tokens == 7  # what `close` leaves in the root's record
    assert result.votes[0][0] == result.answer
    assert result.why.startswith("weighted")
    (ungraded,) = run([Problem("p", "p", answer="1")], BEAM, ScriptedPair(script), max_in_flight=1)
    assert ungraded.correct is None


def test_progress_tells_the_story_of_every_node() -> None:
    told: list[Progress] = []
    results = list(run(problems(3), BEAM, ScriptedPair(), max_in_flight=2, on_event=told.append))
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
    engine = ScriptedPair(nan_at=(2,))
    results = list(run(problems(3), BEAM, engine, max_in_flight=3))
    for result in results:
        assert isinstance(result.error, CheckpointError)
        assert f"'{result.problem.id}', step (2,)" in str(result.error)
        assert "nan" in str(result.error)
    assert engine.open_trees == []


def test_missing_score_is_refused() -> None:
    class Forgetful(ScriptedPair):
        def _complete(self, event: object) -> None:
            super()._complete(event)  # type: ignore[arg-type]
            event.node.score = None  # type: ignore[attr-defined]

    (result,) = run(problems(1), BEAM, Forgetful(), max_in_flight=1)
    assert isinstance(result.error, CheckpointError)
    assert "None" in str(result.error)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", ["started", "generated", "scored", "pruned", "finished"])
def test_an_error_in_the_callback_closes_every_tree(kind: str, error: type[BaseException]) -> None:
    def fail(event: Progress) -> None:
        if event.kind == kind:
            raise error("from the callback")

    engine = ScriptedPair()
    with pytest.raises(error, match="from the callback"):
        list(run(problems(5), BEAM, engine, max_in_flight=3, on_event=fail))
    assert engine.trees
    assert engine.open_trees == []


def test_an_interrupted_engine_a_bad_grader_and_a_caller_who_stops_close_every_tree() -> None:
    class Interrupted(ScriptedPair):
        def poll(self) -> list[object]:  # type: ignore[override]
            if self.polls > 3:
                raise KeyboardInterrupt
            return super().poll()  # type: ignore[return-value]

    def refuse(answer: str | None, gold: str) -> bool:
        raise InputError(gold)

    engine: ScriptedPair = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        list(run(problems(5), BEAM, engine, max_in_flight=3))
    assert engine.open_trees == []
    engine = ScriptedPair()
    results = list(run(problems(5), BEAM, engine, max_in_flight=3, grade=refuse))
    assert [type(result.error) for result in results] == [InputError] * 5
    assert engine.open_trees == []
    engine = ScriptedPair()
    results = run(problems(5), BEAM, engine, max_in_flight=3)
    next(results)
    assert engine.open_trees
    results.close()  # type: ignore[attr-defined]
    assert engine.open_trees == []


def test_a_failing_close_does_not_keep_the_others_open() -> None:
    class Stubborn(ScriptedPair):
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


def test_max_in_flight_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="max_in_flight is 0"):
        run(problems(1), BEAM, ScriptedPair(), max_in_flight=0)


@dataclass(frozen=True)
class Greedier(Majority):
    """Asks for more than its demand."""

    def propose(self, state: State) -> list[Action]:
        return [Ask(state.root, self.n + 1)]


@dataclass(frozen=True)
class Ordered(BeamSearch):
    """Checks what it observes, and counts it."""

    observed: Counter[str] = field(default_factory=Counter)

    def observe(self, state: State, replies: list[Reply]) -> None:
        (reply,) = replies
        assert len(reply.nodes) == reply.ask.n
        assert [child.index for child in reply.nodes] == sorted(child.index for child in reply.nodes)
        assert all(child.parent is reply.ask.node and child.score is not None for child in reply.nodes)
        self.observed[state.problem.id] += 1
        BeamSearch.observe(self, state, replies)


@given(st.integers(0, 99))
def test_children_are_observed_complete_and_in_order(order: int) -> None:
    strategy = Ordered(n=8, expand=4)
    list(run(problems(2), strategy, ScriptedPair(order=random.Random(order)), max_in_flight=2))
    assert set(strategy.observed) == {"p0", "p1"}


@dataclass(frozen=True)
class Silent(Majority):
    """Asks for nothing."""

    def propose(self, state: State) -> list[Action]:
        return []


@pytest.mark.parametrize(
    ("strategy", "message"), [(Greedier(n=3), "wants 4 steps at once, but its demand is 3"), (Silent(n=3), "nothing")]
)
def test_a_strategy_that_breaks_its_word_is_refused(strategy: Strategy, message: str) -> None:
    engine = ScriptedPair()
    results = list(run(problems(2), strategy, engine, max_in_flight=1))
    for result in results:
        assert isinstance(result.error, StrategyError)
        assert message in str(result.error)
        assert f"strategy 'majority' on problem '{result.problem.id}'" in str(result.error)
    assert len(results) == 2
    assert engine.open_trees == []


def test_a_problem_with_settings_that_cannot_work_fails_alone() -> None:
    asked = [Problem("hot", "hot", sampling=Sampling(-1.0)), Problem("seed", "seed", seed=-1), *problems(2)]
    found = {result.problem.id: result for result in run(asked, BEAM, ScriptedPair(), max_in_flight=4)}
    assert [id for id, result in found.items() if result.error is None] == ["p0", "p1"]
    assert "temperature=-1" in str(found["hot"].error)
    assert "seed=-1" in str(found["seed"].error)
