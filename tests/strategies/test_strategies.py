"""Strategies against rules spelled out slowly: node sets, budgets, ties, and independence of timing."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwise.answers.aggregate import AGGREGATES, aggregate
from branchwise.strategies import DVTS, BeamSearch, BestOfN, Limits, Majority, Strategy
from branchwise.strategies.levels import LevelSearch
from branchwise.tree import walk
from branchwise.types import Aggregate, Node, Problem, Result
from search.scripted import MAX_STEPS, STRATEGIES, Path, Script, ScriptedPair, run, shape

scripts = st.builds(
    Script, eos=st.sampled_from([0, 10, 30, 100]), length=st.sampled_from([0, 10]), scores=st.integers(1, 9)
)


def solve(strategy: Strategy, script: Script, order: int = 0, name: str = "p") -> tuple[Result, ScriptedPair]:
    engine = ScriptedPair(script, random.Random(order))
    (result,) = run([Problem(name, name)], strategy, engine, max_in_flight=1)
    return result, engine


class SlowLevels:
    """The level rule once more, over paths: no state, no events, everything recomputed from the script."""

    def __init__(self, script: Script, name: str, kind: Aggregate, expand: int) -> None:
        self.script, self.name, self.kind, self.expand = script, name, kind, expand
        self.nodes: set[Path] = set()
        self.finished: set[Path] = set()

    def value(self, path: Path) -> float:
        return aggregate([self.script.score(self.name, path[: i + 1]) for i in range(len(path))], self.kind)

    def run(self, first: range) -> None:
        level: list[Path] = [(index,) for index in first]
        while level:
            self.nodes.update(level)
            alive = [path for path in level if self.script.finish(self.name, path) == "stop" and len(path) < MAX_STEPS]
            self.finished |= set(level) - set(alive)
            alive.sort(key=lambda path: (-self.value(path), path))
            kept = alive[: max(1, len(alive) // self.expand)]
            children = [0] * len(kept)
            for slot in range(len(alive)):  # deal the slots round, best branch first
                children[slot % len(kept)] += 1
            level = [(*path, index) for path, n in zip(kept, children, strict=True) for index in range(n)]


@given(
    scripts, st.sampled_from(list(AGGREGATES)), st.sampled_from([(8, 4), (6, 2), (4, 4), (5, 1)]), st.integers(0, 99)
)
@pytest.mark.parametrize("made", [BeamSearch, DVTS])
def test_levels_have_exactly_the_nodes_of_the_rule(
    made: Callable[..., LevelSearch], script: Script, kind: Aggregate, sizes: tuple[int, int], order: int
) -> None:
    n, expand = sizes
    strategy = made(n=n, expand=expand, aggregate=kind, max_steps=MAX_STEPS)
    result, _ = solve(strategy, script, order)
    slow = SlowLevels(script, "p", kind, expand)
    for begin in range(0, n, strategy.group_size):
        slow.run(range(begin, begin + strategy.group_size))
    assert {node.lineage_path for node in walk(result.tree)} == slow.nodes | {()}
    assert [each.node.lineage_path for each in result.candidates] == sorted(slow.finished)
    assert len(result.candidates) == n


@given(scripts, st.integers(0, 99))
@pytest.mark.parametrize("strategy", [Majority(n=5, max_steps=MAX_STEPS), BestOfN(n=5, max_steps=MAX_STEPS)])
def test_chains_are_n_independent_samples(strategy: Strategy, script: Script, order: int) -> None:
    result, _ = solve(strategy, script, order)
    expected = []
    for index in range(strategy.n):
        path: Path = (index,)
        while script.finish("p", path) == "stop" and len(path) < MAX_STEPS:
            path = (*path, 0)
        expected.append(path)
    assert [each.node.lineage_path for each in result.candidates] == expected
    assert not any(node.pruned for node in walk(result.tree))


@given(scripts, st.integers(0, 999), st.sampled_from(STRATEGIES))
def test_results_do_not_depend_on_completion_order(script: Script, order: int, strategy: Strategy) -> None:
    assert shape(solve(strategy, script, order)[0]) == shape(solve(strategy, script, 0)[0])


@given(scripts, st.sampled_from(STRATEGIES))
def test_budget_marks_and_freed_kv(script: Script, strategy: Strategy) -> None:
    result, engine = solve(strategy, script)
    (tree,) = engine.trees
    assert tree.closed  # the engine itself asserts that no more than n steps grow at once
    nodes = list(walk(result.tree))
    assert [node.id for node in nodes] == list(range(len(nodes)))
    demand = strategy.demand(Limits(2048, 512))
    assert len(result.candidates) == demand.branches
    finished = {each.node for each in result.candidates}
    for node in nodes[1:]:
        assert node.pruned == (not node.children and node not in finished)
        assert (node.score is not None) == demand.scores
        assert node.depth <= MAX_STEPS
    level = [sum(node.depth == depth for node in nodes) for depth in range(1, MAX_STEPS + 1)]
    assert max(level) <= demand.branches


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: f"{strategy.name}-{strategy.n}")
def test_kv_is_freed_as_the_search_goes(strategy: Strategy) -> None:
    _, engine = solve(strategy, Script(eos=0, length=0))
    # The steps that grow, and those that wait until their group is complete.
    assert engine.trees[0].most_leaves <= 2 * engine.trees[0].demand.branches


def test_truncated_and_depth_limited_branches_are_flagged() -> None:
    cut, _ = solve(BeamSearch(n=4, expand=2, max_steps=3), Script(eos=0, length=0))
    assert [each.finish for each in cut.candidates] == ["length"] * 4
    assert {each.node.depth for each in cut.candidates} == {3}
    assert cut.answer is None
    assert cut.votes == []
    capped, _ = solve(BeamSearch(n=4, expand=2), Script(eos=0, length=100))
    assert [each.finish for each in capped.candidates] == ["length"] * 4


def test_a_truncated_branch_never_beats_a_finished_one_with_an_answer() -> None:
    class TruncatedScoresHigh(Script):
        def score(self, problem: str, path: Path) -> float:
            return 0.1 if self.finish(problem, path) == "eos" else 0.9

    script = TruncatedScoresHigh(eos=30, length=60)
    result, _ = solve(BeamSearch(n=8, expand=4, vote="max"), script)
    assert {each.finish for each in result.candidates} == {"eos", "length"}
    assert result.answer is not None
    assert result.score == 0.1


def test_everything_stops_at_the_first_step() -> None:
    for strategy in STRATEGIES:
        result, _ = solve(strategy, Script(eos=100, length=0))
        assert [each.node.lineage_path for each in result.candidates] == [(index,) for index in range(strategy.n)]
        assert result.answer is not None


def test_ties_go_to_the_smallest_lineage_path() -> None:
    flat = Script(eos=0, length=0, scores=1)
    result, _ = solve(BeamSearch(n=4, expand=2, max_steps=3), flat)
    kept = {node.lineage_path for node in walk(result.tree) if node.children and node.depth}
    assert kept == {(0,), (1,), (0, 0), (0, 1)}
    result, _ = solve(DVTS(n=4, expand=2, max_steps=3), flat)
    kept = {node.lineage_path for node in walk(result.tree) if node.children and node.depth}
    assert kept == {(0,), (0, 0), (2,), (2, 0)}
    assert result.text.startswith("step (0,)")


def depth_reached(engine: ScriptedPair, first: range) -> int:
    (tree,) = engine.trees
    return max((node.depth for node in walk(tree.root) if node.finish and node.lineage_path[0] in first), default=0)


@pytest.mark.parametrize(
    ("strategy", "waits"),
    [
        (DVTS(n=4, expand=2, max_steps=5), False),
        (BestOfN(n=4, max_steps=5), False),
        (BeamSearch(n=4, expand=2, max_steps=5), True),
    ],
)
def test_who_waits_for_a_slow_first_step(strategy: Strategy, waits: bool) -> None:
    """Step (3,) takes 200 polls: in beam search all wait, in DVTS only its subtree, in best-of-n only its chain."""
    depths: list[int] = []
    engine = ScriptedPair(Script(eos=0, length=0), slow=lambda node: 200 if node.lineage_path == (3,) else 0)
    others = range(3) if isinstance(strategy, BestOfN) else range(2)
    for _ in run(
        [Problem("p", "p")],
        strategy,
        engine,
        max_in_flight=1,
        on_event=lambda event: (
            depths.append(depth_reached(engine, others))
            if event.kind == "generated" and event.node.lineage_path == (3,)
            else None
        ),
    ):
        assert depths == [1 if waits else 5]


def test_early_finishers_are_scored_while_stragglers_grow() -> None:
    seen: list[tuple[str, Path]] = []
    engine = ScriptedPair(slow=lambda node: 50 if node.lineage_path == (1,) else 0)
    list(
        run(
            [Problem("p", "p")],
            BeamSearch(n=2, expand=2),
            engine,
            max_in_flight=1,
            on_event=lambda event: seen.append((event.kind, event.node.lineage_path)),
        )
    )
    assert seen.index(("scored", (0,))) < seen.index(("generated", (1,)))


def test_final_pick_uses_the_aggregate_of_the_pruning() -> None:
    for kind in AGGREGATES:
        result, _ = solve(BeamSearch(n=8, expand=4, aggregate=kind, vote="max"), Script(scores=9))
        assert [each.score for each in result.candidates] == [
            aggregate(each.scores, kind) for each in result.candidates
        ]
        assert result.score == max(each.score or 0 for each in result.candidates if each.answer is not None)


def test_steps_without_text_have_no_score() -> None:
    class Blank(Script):
        def text(self, problem: str, path: Path) -> str:
            return ""

    class NoScore(ScriptedPair):
        def _complete(self, event: object) -> None:
            super()._complete(event)  # type: ignore[arg-type]
            event.node.score = None  # type: ignore[attr-defined]

    (result,) = run([Problem("p", "p")], BeamSearch(n=2, expand=2), NoScore(Blank(eos=100)), max_in_flight=1)
    assert result.score is None
    assert result.answer is None
    assert isinstance(result.tree, Node)
