"""The compute-optimal rule: its waves are those of DVTS and best-of-N, it stops when it should, and it says why."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwise.errors import ConfigError
from branchwise.strategies import DVTS, Auto, BestOfN, Majority, make_strategy
from branchwise.strategies.auto import informed
from branchwise.strategies.equal import without_chance
from branchwise.strategies.outlook import Kind, RuleOfThumb, Standing, compute_optimal, standing
from branchwise.tree import walk
from branchwise.types import Candidate, Node, Result, Selection
from search.scripted import MAX_STEPS, Script
from strategies.test_strategies import scripts, solve


@dataclass(frozen=True)
class Told(RuleOfThumb):
    """An outlook that says what it is told."""

    kind: Kind = "tree"
    gains: float = 1.0

    def gain(self, now: Standing, kind: Kind, n: int) -> float:
        return self.gains

    def kinds(self, now: Standing) -> tuple[Kind, ...]:
        return (self.kind,)


def auto(outlook: RuleOfThumb, **options: Any) -> Auto:
    return Auto(**{"n": 8, "max_steps": MAX_STEPS, "vote": "max", **options}).informed(
        outlook
    )  # "max": can be overtaken


def paths(result: Result) -> set[tuple[int, ...]]:
    return {node.lineage_path for node in walk(result.tree)}


@given(scripts, st.integers(0, 99))
def test_waves_of_trees_are_dvts_and_waves_of_chains_best_of_n(script: Script, order: int) -> None:
    trees, _ = solve(auto(Told(kind="tree")), script, order)
    assert paths(trees) == paths(solve(DVTS(n=8, expand=4, max_steps=MAX_STEPS, vote="max"), script)[0])
    chains, _ = solve(auto(Told(kind="chains")), script, order)
    best = solve(BestOfN(n=8, max_steps=MAX_STEPS), script)[0]
    assert paths(chains) == paths(best)
    assert (chains.answer, chains.score) == (best.answer, best.score)


@given(scripts, st.integers(1, 9), st.integers(1, 5))
def test_never_more_than_n_and_the_last_wave_may_be_smaller(script: Script, n: int, wave: int) -> None:
    result, _ = solve(auto(Told(), n=n, wave=wave), script)
    assert len(result.candidates) == n
    assert [each.n for each in result.decisions[:-1]] == [min(wave, n - i) for i in range(0, n, wave)]
    assert result.decisions[-1].chosen == "stop"
    assert result.decisions[-1].why == f"all {n} solutions were drawn after {n} of {n}"


def test_it_stops_where_another_wave_gains_too_little() -> None:
    result, _ = solve(auto(Told(gains=0.03), floor=0.04), Script())
    assert [(each.solutions, each.chosen, each.n) for each in result.decisions] == [(0, "tree", 4), (4, "stop", 0)]
    assert result.why.endswith("another wave would gain 0.030, less than 0.04 after 4 of 8")
    assert len(solve(auto(Told(gains=0.04), floor=0.04), Script())[0].candidates) == 8


@given(scripts, st.integers(0, 9))
def test_an_answer_that_cannot_be_overtaken_is_that_of_all_solutions(script: Script, name: int) -> None:
    rule, votes = auto(Told(judged=False, kind="chains"), n=16, vote=None), Majority(n=16, max_steps=MAX_STEPS)
    result, whole = solve(rule, script, name=str(name))[0], solve(votes, script, name=str(name))[0]
    assert result.answer == whole.answer or "all 16" in result.why
    if "overtaken" in result.why:
        left = 16 - len(result.candidates)
        assert result.votes[0][1] - sum(weight for _, weight in result.votes[1:2]) > left > 0
        assert result.answer == whole.answer


def test_a_large_beam_comes_after_a_first_wave_where_it_is_worth_its_price() -> None:
    class Priced(Told):
        def kinds(self, now: Standing) -> tuple[Kind, ...]:
            return ("tree", "beam")

        def gain(self, now: Standing, kind: Kind, n: int) -> float:
            return {"tree": 0.06, "beam": self.gains}[kind]

    def chosen(gain: float, n: int) -> list[tuple[str, int]]:
        result, _ = solve(auto(Priced(gains=gain), n=n, floor=0.04), Script())
        return [(each.chosen, each.n) for each in result.decisions]

    assert chosen(0.15, 16) == [("tree", 4), ("beam", 12), ("stop", 0)]
    assert chosen(0.13, 16) == [("tree", 4), ("tree", 4), ("tree", 4), ("tree", 4), ("stop", 0)]
    assert chosen(0.15, 12) == [("tree", 4), ("tree", 4), ("tree", 4), ("stop", 0)]  # eight are left: no room for it


@given(scripts, st.integers(0, 9))
def test_a_wave_of_particles_votes_with_all_its_copies(script: Script, order: int) -> None:
    """The solutions of a filter stand for several of itself, before and after other waves."""

    class Filtered(Told):
        def kinds(self, now: Standing) -> tuple[Kind, ...]:
            return ("tree",) if now.n in (0, 16) else ("particles",)

    result, _ = solve(auto(Filtered(), n=20, vote="majority"), script, order)
    drawn = [(each.chosen, each.n) for each in result.decisions if each.chosen != "stop"]
    assert drawn in ([("tree", 4), ("particles", 12), ("tree", 4)], [("tree", 4), ("particles", 12)])
    assert sum(each.count for each in result.candidates) == sum(n for _, n in drawn)
    assert [each.solutions for each in result.decisions] == [0, 4, 16, 20][: len(result.decisions)]
    counted: Counter[str] = Counter()
    for each in result.candidates:
        if each.answer is not None:
            counted[each.answer] += each.count
    assert sorted((weight for _, weight in result.votes), reverse=True) == sorted(counted.values(), reverse=True)


def test_the_table_of_the_paper() -> None:
    assert [compute_optimal(size, "easy") for size in (None, 1, 7, 31, 72)] == [
        "best_of_n", "best_of_n", "dvts", "dvts", "best_of_n",
    ]  # fmt: skip
    assert [compute_optimal(size, "medium") for size in (None, 1, 7, 31, 72)] == [
        "beam", "beam", "dvts", "dvts", "best_of_n",
    ]  # fmt: skip
    assert [compute_optimal(size, "hard") for size in (None, 1, 7, 31, 72)] == ["beam"] * 4 + ["best_of_n"]


@pytest.mark.parametrize(("billions", "score", "kind"), [(1, 0.9, "chains"), (1, 0.3, "beam"), (8, 0.3, "dvts")])
def test_the_controller_of_the_paper_spends_the_rest_by_its_table(billions: float, score: float, kind: str) -> None:
    class Flat(Script):
        def score(self, problem: str, path: tuple[int, ...]) -> float:
            return score

    result, _ = solve(auto(RuleOfThumb(billions=billions), n=12, controller="paper"), Flat(eos=100, length=0))
    assert [(each.chosen, each.n) for each in result.decisions] == [("chains", 4), (kind, 8), ("stop", 0)]
    assert len(result.candidates) == 12


def test_what_is_known_stays_without_chance() -> None:
    known = auto(RuleOfThumb(judged=False))
    one: Any = without_chance(known)
    assert one.one.outlook == RuleOfThumb(judged=False)
    assert (one.n, one.one.n) == (8, 1)
    assert informed(Majority(), RuleOfThumb()) == Majority()


def test_rules_of_thumb() -> None:
    now = Standing(4, 3, 1, 0.9, 0.75, 2.0)
    assert RuleOfThumb().right(now) == 0.9
    assert RuleOfThumb(quality=0.5).right(now) == pytest.approx(3 / 5)
    assert RuleOfThumb(quality=0.75).right(now) == pytest.approx((0.9 + 3 / 5) / 2)
    # P(none of 2 is right) is that of Beta(3, 3): 3/6 * 4/7
    assert RuleOfThumb().gain(now, "tree", 2) == pytest.approx(0.1 * (1 - 3 / 6 * 4 / 7))
    votes = Standing(4, 3, 1, None, 0.75, 3.0)
    assert RuleOfThumb(judged=False).gain(votes, "chains", 4) == pytest.approx(1 - 26 / 32)
    assert (now.difficulty, Standing(4, 1, 1, 0.2, 0.2, 0.3).difficulty) == ("easy", "hard")


def candidate(index: int, answer: str | None, score: float | None, count: int = 1) -> Candidate:
    node = Node(0, Node(0, None, 0, 0, 0), index, 1, 0)
    return Candidate(node, "", answer, [] if score is None else [score], score, "eos", count)


def test_a_standing_counts_solutions_scores_and_shares() -> None:
    drawn = [candidate(0, "1", 0.5), candidate(1, "2", 0.9), candidate(2, "1", 0.6, count=2), candidate(3, None, 1.5)]
    now = standing(Selection(drawn[2], drawn, [("1", 1.7), ("2", 0.9)], ""))
    assert (now.n, now.leader, now.second, now.score) == (5, 3, 1, 0.6)
    assert now.share == pytest.approx(1.7 / 2.6)
    assert now.success == pytest.approx(0.5 + 0.9 + 1.2 + 1.0)  # a score above 1 counts as 1
    nothing = standing(Selection(None, [], [], ""))
    assert (nothing.n, nothing.leader, nothing.difficulty, nothing.score) == (0, 0, "", None)
    assert math.isclose(RuleOfThumb().right(nothing), 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 0}, "auto: n is 0"),
        ({"wave": 0}, "auto: wave is 0"),
        ({"floor": 2}, "auto: floor is 2, expected 0 to 1"),
        ({"controller": "papre"}, "did you mean 'paper'"),
        ({"vote": "most"}, "auto: vote is 'most'"),
        ({"outlook": None}, "has no option 'outlook'"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_strategy("auto", **options)
