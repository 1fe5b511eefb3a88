"""REBASE, ETS, particles, MCTS, AB-MCTS, votes that stop early: rules spelled out slowly, budgets, and no timing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise.strategies import (
    DVTS,
    ETS,
    MCTS,
    AbMcts,
    AdaptiveConsistency,
    Auto,
    BeamSearch,
    DeepConf,
    EarlyStopping,
    ParticleFilter,
    ParticleGibbs,
    Rebase,
    Strategy,
)
from branchwise.strategies.rebase import balanced
from branchwise.strategies.waves import majority_probability
from branchwise.tree import walk
from branchwise.types import Node
from search.scripted import MAX_STEPS, MORE_STRATEGIES, Path, Script, ScriptedPair, shape
from strategies.test_strategies import scripts, solve

NAMES = [f"{place}-{strategy.name}" for place, strategy in enumerate(MORE_STRATEGIES)]


class Told(Script):
    """A script of which scores, ends and answers are given: by path, else by what is asked last."""

    def __init__(self, scores: dict[Path, float] | float, ends: dict[Path, str], depth: int = 99) -> None:
        super().__init__(eos=0, length=0)
        object.__setattr__(self, "told", (scores, ends, depth))

    def finish(self, problem: str, path: Path):  # type: ignore[no-untyped-def]
        _, ends, depth = self.told  # type: ignore[attr-defined]
        return "eos" if path in ends or len(path) >= depth else "stop"

    def text(self, problem: str, path: Path) -> str:
        _, ends, _ = self.told  # type: ignore[attr-defined]
        return f"\\boxed{{{ends.get(path, '0')}}}" if self.finish(problem, path) == "eos" else f"step {path}\n\n"

    def score(self, problem: str, path: Path) -> float:
        scores, _, _ = self.told  # type: ignore[attr-defined]
        return scores if isinstance(scores, float) else scores.get(path, 0.5)


# --- all of them -----------------------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(scripts, st.integers(0, 999))
@pytest.mark.parametrize("strategy", MORE_STRATEGIES, ids=NAMES)
def test_results_do_not_depend_on_completion_order(strategy: Strategy, script: Script, order: int) -> None:
    assert shape(solve(strategy, script, order)[0]) == shape(solve(strategy, script, 0)[0])


@settings(max_examples=12)
@given(scripts)
@pytest.mark.parametrize("strategy", MORE_STRATEGIES, ids=NAMES)
def test_budgets_and_what_is_left(strategy: Strategy, script: Script) -> None:
    result, engine = solve(strategy, script)  # the pair asserts that no more grow at once than was demanded
    (tree,) = engine.trees
    assert tree.closed
    assert result.error is None
    votes = sum(each.count for each in result.candidates)
    assert votes <= strategy.n  # type: ignore[attr-defined]
    if not isinstance(strategy, MCTS | AdaptiveConsistency | EarlyStopping | DeepConf | Auto):
        assert votes == strategy.n  # type: ignore[attr-defined]
    finished = {each.node for each in result.candidates}
    for node in walk(result.tree):
        assert node.depth <= MAX_STEPS
        if node.depth and not node.children:
            assert node.pruned == (node not in finished)


@pytest.mark.parametrize("strategy", MORE_STRATEGIES, ids=NAMES)
def test_everything_stops_at_the_first_step(strategy: Strategy) -> None:
    result, _ = solve(strategy, Script(eos=100, length=0))
    assert result.answer is not None
    assert {each.node.depth for each in result.candidates} == {1}


@pytest.mark.parametrize("strategy", MORE_STRATEGIES, ids=NAMES)
def test_equal_scores_are_no_trouble(strategy: Strategy) -> None:
    result, _ = solve(strategy, Script(eos=10, length=0, scores=1))
    assert result.error is None


# --- shares ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 64))
def test_shares_use_every_slot_once(weights: list[float], slots: int) -> None:
    weights = sorted(weights, reverse=True)
    shares = balanced(weights, slots)
    if sum(weights) > 0:
        assert sum(shares) == slots
    assert min(shares) >= 0


def test_shares_by_hand() -> None:
    # W = 8, S = 1 + .5 + .25 + .25: ceil(8 * .5) = 4; W = 4, S = 1: ceil(2) = 2; W = 2, S = .5: 1; 1
    assert balanced([1.0, 0.5, 0.25, 0.25], 8) == [4, 2, 1, 1]
    assert balanced([1.0, 1.0, 1.0], 4) == [2, 1, 1]
    assert balanced([1.0, 1e-9, 1e-9], 4) == [4, 0, 0]
    assert balanced([0.1] * 10, 10) == [1] * 10


class SlowRebase:
    """The rule over paths: no state, no events."""

    def __init__(self, script: Script, n: int, balance: float) -> None:
        self.script, self.n, self.balance = script, n, balance
        self.nodes: set[Path] = set()
        self.finished: list[Path] = []

    def run(self) -> None:
        level: list[Path] = [(index,) for index in range(self.n)]
        while level:
            self.nodes.update(level)
            alive = [path for path in level if self.script.finish("p", path) == "stop" and len(path) < MAX_STEPS]
            self.finished += [path for path in level if path not in alive]
            alive.sort(key=lambda path: (-self.script.score("p", path), path))
            weights = [math.exp(self.script.score("p", path) / self.balance) for path in alive]
            left, level = len(alive), []
            for place, path in enumerate(alive):
                count = math.ceil(left * weights[place] / sum(weights[place:]) - 1e-9)
                left -= count
                level += [(*path, index) for index in range(count)]


@given(scripts, st.sampled_from([(8, 0.2), (5, 1.0), (16, 0.05)]), st.integers(0, 99))
def test_rebase_has_exactly_the_nodes_of_the_rule(script: Script, sizes: tuple[int, float], order: int) -> None:
    n, balance = sizes
    result, _ = solve(Rebase(n=n, balance=balance, max_steps=MAX_STEPS), script, order)
    slow = SlowRebase(script, n, balance)
    slow.run()
    assert {node.lineage_path for node in walk(result.tree)} == slow.nodes | {()}
    assert [each.node.lineage_path for each in result.candidates] == sorted(slow.finished)


# --- options of searches by levels -----------------------------------------------------------------------------------


def test_every_judges_the_last_of_g_steps_alone() -> None:
    scored: list[int] = []

    class Heard(ScriptedPair):
        def score(self, tree, nodes: Sequence[Node]) -> None:  # type: ignore[no-untyped-def]
            scored.extend(node.depth for node in nodes)
            super().score(tree, nodes)

    from branchwise.types import Problem
    from search.scripted import run

    list(run([Problem("p", "p")], BeamSearch(n=4, expand=2, every=3, max_steps=5), Heard(Script(eos=0, length=0))))
    assert Counter(scored) == {3: 4, 5: 4}


def test_lookahead_compares_by_where_a_step_leads() -> None:
    scores = {(0,): 0.9, (1,): 0.1, (0, 0): 0.2, (1, 0): 0.8}
    script = Told(scores, {}, depth=9)
    for lookahead, best in ((0, 0), (1, 1)):
        result, engine = solve(BeamSearch(n=2, expand=2, lookahead=lookahead, max_steps=2), script)
        assert {each.node.lineage_path[0] for each in result.candidates} == {best}
        greedy = [options for options in engine.trees[0].options if options.sampling.is_greedy]
        assert len(greedy) == 2 * lookahead


@pytest.mark.parametrize(("duplicates", "kept"), [("keep", {0, 1}), ("last", {0, 2}), ("drop", {0, 2})])
def test_equal_branches(duplicates, kept: set[int]) -> None:  # type: ignore[no-untyped-def]
    class Same(Script):
        def text(self, problem: str, path: Path) -> str:
            return f"{'same' if path[0] < 2 else path}\n\n"

        def score(self, problem: str, path: Path) -> float:
            return 1 - path[0] / 10

    result, _ = solve(BeamSearch(n=4, expand=2, duplicates=duplicates, max_steps=2), Same(eos=0, length=0))
    assert {each.node.lineage_path[0] for each in result.candidates} == kept
    assert result.equal == (duplicates == "keep")


# --- ETS -------------------------------------------------------------------------------------------------------------


def test_ets_drops_what_holds_much_and_says_the_same() -> None:
    """Two branches share their first step; a third says what the first does, on a path of its own."""
    root = Node(0, None, 0, 0, 0)

    def step(parent: Node, index: int, text: str, tokens: int, score: float) -> Node:
        return Node(0, parent, index, parent.depth + 1, 0, tokens=[1] * tokens, text=text, score=score)

    shared, alone = step(root, 0, "a", 10, 0.5), step(root, 1, "b", 10, 0.5)
    branches = [step(shared, 0, "x = 1", 5, 0.9), step(shared, 1, "y = 2", 5, 0.89), step(alone, 0, "x = 1", 25, 0.3)]
    shares = ETS(n=6).share(branches, branches, 6)
    assert shares[2] == 0
    assert shares[0] > 0
    assert shares[1] > 0
    assert sum(shares) == 6
    assert ETS(n=6, kv_cost=0.0).share(branches, branches, 6) == Rebase(n=6).share(branches, branches, 6)


# --- particles -------------------------------------------------------------------------------------------------------


def test_systematic_draws_are_in_proportion() -> None:
    """Weights 3 : 1 (scores 3/4 and 1/2) among four particles: three copies of the one, one of the other."""
    script = Told({(0,): 0.75, (1,): 0.5, (2,): 1e-9, (3,): 1e-9}, {}, depth=9)
    result, _ = solve(ParticleFilter(n=4, max_steps=2), script)
    assert Counter(each.node.lineage_path[0] for each in result.candidates) == {0: 3, 1: 1}


def test_an_ended_particle_is_drawn_as_often_as_any_other() -> None:
    script = Told({(0,): 0.999999, (1,): 1e-9}, {(0,): "7"}, depth=3)
    result, _ = solve(ParticleFilter(n=2, max_steps=3), script)
    assert [(each.node.lineage_path, each.count) for each in result.candidates] == [((0,), 2)]
    assert result.answer == "7"


def test_no_drawing_anew_while_particles_are_even() -> None:
    result, _ = solve(ParticleFilter(n=4, max_steps=3, ess=0.5), Told(0.5, {}, depth=9))
    assert [each.node.lineage_path for each in result.candidates] == [(place, 0, 0) for place in range(4)]


def test_a_reference_is_kept_and_its_beginning_may_be_gone_on_from() -> None:
    """The only good trajectory of the first iteration is given to the second, where nothing else is good."""
    scores = {(0,): 0.9999, (0, 0): 0.9999}
    scores |= {(place, 0): 1e-6 for place in range(1, 9)} | {(place,): 1e-6 for place in range(1, 9)}
    script = Told(scores, {(0, 0): "7"}, depth=2)
    result, _ = solve(ParticleGibbs(n=8, iterations=2, max_steps=2), script)
    counts = {each.node.lineage_path: each.count for each in result.candidates}
    assert sum(counts.values()) == 8
    assert counts[0, 0] >= 2
    assert len({node.lineage_path for node in walk(result.tree) if node.depth == 2 and node.parent.index == 0}) > 4  # type: ignore[union-attr]


# --- MCTS ------------------------------------------------------------------------------------------------------------


def test_mcts_ends_are_visited_once_and_the_best_first() -> None:
    scores = {(0,): 0.2, (1,): 0.9, (1, 0): 0.8, (1, 1): 0.3, (0, 0): 0.7, (0, 1): 0.1}
    result, _ = solve(MCTS(n=9, expand=2, parallel=1), Told(scores, {}, depth=2))
    assert [each.node.lineage_path for each in result.candidates] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    one, _ = solve(MCTS(n=1, expand=2, parallel=1), Told(scores, {}, depth=2))
    assert [each.node.lineage_path for each in one.candidates] == [(1, 0)]
    assert (0, 0) not in {node.lineage_path for node in walk(one.tree)}


def test_puct_by_hand() -> None:
    """Equal priors: after a rollout through child 1 came back with 0.1, child 0 is the better bet."""
    scores = {(0,): 0.5, (1,): 0.6, (1, 0): 0.1, (1, 1): 0.05, (0, 0): 0.4, (0, 1): 0.3}
    two, _ = solve(MCTS(n=2, expand=2, parallel=1), Told(scores, {}, depth=2))
    # child 0: 0.5 + 0.5 * 1.25 * 1 / 1 = 1.125; child 1: 0.1 + 0.5 * 1.25 * 1 / 2 = 0.4125
    assert [each.node.lineage_path for each in two.candidates] == [(0, 0), (1, 0)]


def test_ab_mcts_goes_deeper_where_it_pays_and_wider_where_not() -> None:
    good = {(0,): 0.99, **{(0, place): 0.99 for place in range(40)}}
    good |= {(place,): 0.01 for place in range(1, 40)} | {(place, 0): 0.01 for place in range(1, 40)}
    result, _ = solve(AbMcts(n=24, parallel=1), Told(good, {}, depth=2))
    firsts = Counter(each.node.lineage_path[0] for each in result.candidates)
    assert firsts[0] > 12
    bad = dict.fromkeys(good, 0.02)
    result, _ = solve(AbMcts(n=24, parallel=1), Told(bad, {}, depth=2))
    assert len({each.node.lineage_path[0] for each in result.candidates}) > len(firsts)


# --- waves -----------------------------------------------------------------------------------------------------------


def answers(*given: str) -> Told:
    return Told(0.5, {(place,): answer for place, answer in enumerate(given)}, depth=1)


@pytest.mark.parametrize(("confidence", "least"), [(0.95, [4, 6, 8, 9, 11]), (0.99, [6, 9, 11, 13, 14])])
def test_the_published_table(confidence: float, least: list[int]) -> None:
    for second, first in enumerate(least):
        assert majority_probability(first, second) >= confidence > majority_probability(first - 1, second)


def test_adaptive_stops_when_sure() -> None:
    result, _ = solve(AdaptiveConsistency(n=40, wave=1), answers("1", "1", "1", "1", "2"))
    assert len(result.candidates) == 4
    assert "probability 0.969 after 4 of 40" in result.why
    result, _ = solve(AdaptiveConsistency(n=40, wave=1), answers("1", "2", "1", "1", "1", "1", "1", "2"))
    assert len(result.candidates) == 7  # 6 against 1


def test_what_cannot_be_overtaken_is_settled() -> None:
    result, _ = solve(EarlyStopping(n=6, wave=2), answers("1", "2", "1", "3", "1", "1"))
    assert len(result.candidates) == 6
    result, _ = solve(AdaptiveConsistency(n=5, wave=3, confidence=1.0), answers("1", "1", "1", "2", "2"))
    assert len(result.candidates) == 3
    assert "cannot be overtaken" in result.why


@given(st.lists(st.sampled_from("123"), min_size=12, max_size=12), st.integers(1, 5))
def test_a_vote_that_cannot_be_overtaken_ends_as_the_whole_would(given_: list[str], wave: int) -> None:
    stopped, _ = solve(AdaptiveConsistency(n=12, wave=wave, confidence=1.0), answers(*given_))
    whole, _ = solve(AdaptiveConsistency(n=12, wave=12, confidence=1.0), answers(*given_))
    assert stopped.answer == whole.answer


def test_esc_takes_the_answer_of_a_wave_that_agrees() -> None:
    result, _ = solve(EarlyStopping(n=40, wave=3), answers("1", "1", "2", "1", "1", "2", "2", "2", "2", "1"))
    assert result.answer == "2"
    assert len(result.candidates) == 9
    assert "all 3 of a wave agree" in result.why


def test_samples_without_an_answer_do_not_agree() -> None:
    result, _ = solve(EarlyStopping(n=9, wave=3), replace(Script(eos=0, length=100)))
    assert len(result.candidates) == 9
    assert result.answer is None


def test_dvts_with_lookahead_scores_more_than_it_keeps() -> None:
    result, engine = solve(DVTS(n=4, expand=2, lookahead=1, max_steps=2), Told(0.5, {}, depth=9))
    assert len(result.candidates) == 4
    assert engine.trees[0].most_leaves <= 8
