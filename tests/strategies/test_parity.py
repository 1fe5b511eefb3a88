"""The searches of other people's code against trees worked out by hand: every quirk that shapes a tree has its case."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise.strategies import Strategy
from branchwise.strategies.parity.cotts_beam import CottsBeam
from branchwise.strategies.parity.its_beam import ItsBeam
from branchwise.strategies.parity.sal_beam import SalBeam
from branchwise.strategies.parity.sal_dvts import SalDvts
from branchwise.tree import walk
from branchwise.types import FinishReason, Result
from search.scripted import Path, Script, shape
from strategies.test_strategies import scripts, solve


@dataclass(frozen=True)
class Given(Script):
    """Steps that are given by path; all others stop, say where they are, and score as `default` says."""

    scored: dict[Path, float] = field(default_factory=dict)
    ends: dict[Path, FinishReason] = field(default_factory=dict)
    texts: dict[Path, str] = field(default_factory=dict)
    default: float = 0.5
    depth: int = 99  # at which every branch ends

    def finish(self, problem: str, path: Path) -> FinishReason:
        return self.ends.get(path, "eos" if len(path) >= self.depth else "stop")

    def text(self, problem: str, path: Path) -> str:
        end = "\n\n" if self.finish(problem, path) == "stop" else ""
        return self.texts.get(path, f"step {path}{end}")

    def score(self, problem: str, path: Path) -> float:
        return self.scored.get(path, self.default)


def paths(result: Result, depth: int) -> set[Path]:
    return {node.lineage_path for node in walk(result.tree) if node.depth == depth}


def chosen(result: Result) -> dict[Path, int]:
    return {each.node.lineage_path: each.count for each in result.candidates}


ALL: list[Strategy] = [
    SalBeam(n=6, expand=2, max_steps=4),
    SalBeam(n=8, expand=4, max_steps=4, filter_duplicates=True, sort_completed=True),
    SalDvts(n=6, expand=3, max_steps=4),
    SalDvts(n=8, expand=4, lookahead=2, max_steps=3),
    CottsBeam(n=8, expand=4, max_steps=4),
    CottsBeam(n=6, expand=2, max_steps=4),
    ItsBeam(n=8, keep=2, max_steps=4),
    ItsBeam(n=4, keep=4, max_steps=3),
]


@settings(max_examples=15)
@given(scripts, st.integers(0, 99))
@pytest.mark.parametrize("strategy", ALL, ids=lambda each: f"{each.name}-{each.n}")
def test_no_timing(strategy: Strategy, script: Script, order: int) -> None:
    first, engine = solve(strategy, script, order)
    assert first.error is None
    assert engine.trees[0].closed
    assert shape(first) == shape(solve(strategy, script, 0)[0])


# --- search-and-learn: beam search -----------------------------------------------------------------------------------


def test_sal_the_best_quarter_is_dealt_out_in_the_order_of_slots() -> None:
    script = Given(scored={(1,): 0.9, (6,): 0.8}, depth=2)
    result, _ = solve(SalBeam(n=8, expand=4, max_steps=9), script)
    assert paths(result, 1) == {(place,) for place in range(8)}
    assert paths(result, 2) == {(1, place) for place in range(4)} | {(6, place) for place in range(4)}


def test_sal_survivors_in_front_get_one_copy_more() -> None:
    """Q3: three survivors for seven slots: 3, 2 and 2, whatever their scores are."""
    script = Given(scored={(6,): 0.9, (3,): 0.8, (5,): 0.7}, depth=2)
    result, _ = solve(SalBeam(n=7, expand=2, max_steps=9), script)
    assert Counter(path[0] for path in paths(result, 2)) == {3: 3, 5: 2, 6: 2}


def test_sal_finished_branches_free_their_slots_and_more_than_n_finish() -> None:
    """Q1: slot 0 is done at once; the other survivor is dealt out to all four slots again."""
    script = Given(ends={(0,): "eos"}, scored={(1,): 0.9, (2,): 0.8}, depth=2)
    result, _ = solve(SalBeam(n=4, expand=2, max_steps=9), script)
    assert paths(result, 2) == {(1, 0), (1, 1), (2, 0), (2, 1)}
    done = [node for node in walk(result.tree) if node.finish == "eos"]
    assert len(done) == 5
    assert chosen(result) == {(0,): 1, (1, 0): 1, (2, 0): 1, (1, 1): 1}  # the first four, in the order of slots


def test_sal_sort_completed_takes_the_best_n() -> None:
    script = Given(ends={(0,): "eos"}, scored={(0,): 0.1, (1,): 0.9, (2,): 0.8, (1, 0): 0.95, (2, 1): 0.94}, depth=2)
    result, _ = solve(SalBeam(n=4, expand=2, max_steps=9, sort_completed=True), script)
    assert (0,) not in chosen(result)
    assert result.score == 0.95


def test_sal_fewer_than_n_are_repeated_in_turn() -> None:
    script = Given(ends={(0,): "eos", (1,): "eos"}, scored={(0,): 0.9}, depth=1)
    result, _ = solve(SalBeam(n=2, expand=2, max_steps=9), script)
    assert chosen(result) == {(0,): 1, (1,): 1}
    dead = Given(texts={(1,): "", (2,): ""}, ends={(0,): "eos"}, depth=1)
    result, _ = solve(SalBeam(n=3, expand=3, max_steps=9), dead)
    assert sum(chosen(result).values()) == 3


def test_sal_n_below_m_keeps_all() -> None:
    """Q4: n // M is 0, and the last 0 of a list in Python is all of it."""
    result, _ = solve(SalBeam(n=3, expand=4, max_steps=9), Given(depth=2))
    assert paths(result, 2) == {(0, 0), (1, 0), (2, 0)}


def test_sal_a_cut_step_counts_as_finished() -> None:
    """Q5."""
    script = Given(ends={(0,): "length"}, scored={(0,): 0.99}, depth=2)
    result, _ = solve(SalBeam(n=2, expand=2, max_steps=9), script)
    assert (0,) in chosen(result)
    assert paths(result, 2) == {(1, 0), (1, 1)}


def test_sal_duplicates_are_filtered_over_all_branches() -> None:
    """Q7."""
    script = Given(texts={(0,): "same\n\n", (1,): "same\n\n"}, scored={(0,): 0.9, (1,): 0.9, (2,): 0.8}, depth=2)
    kept, _ = solve(SalBeam(n=4, expand=2, max_steps=9), script)
    assert {path[0] for path in paths(kept, 2)} == {0, 1}
    filtered, _ = solve(SalBeam(n=4, expand=2, max_steps=9, filter_duplicates=True), script)
    assert {path[0] for path in paths(filtered, 2)} == {0, 2}


def test_sal_the_last_round_has_no_delimiter() -> None:
    """Q13."""
    _, engine = solve(SalBeam(n=2, expand=2, max_steps=2), Given(depth=9))
    assert len(engine.trees[0].options) == 2
    first, last = engine.trees[0].options
    assert first.endings != last.endings


# --- search-and-learn: DVTS ------------------------------------------------------------------------------------------


def test_sal_dvts_all_siblings_of_the_last_step_vote() -> None:
    """Q12: the first beam takes (1,), which has ended: all four options of that step are candidates."""
    script = Given(ends={(1,): "eos"}, scored={(1,): 0.9, (5,): 0.8}, depth=2)
    result, _ = solve(SalDvts(n=8, expand=4, max_steps=9), script)
    assert set(chosen(result)) == {(0,), (1,), (2,), (3,)} | {(5, place) for place in range(4)}
    assert len(result.candidates) == 8


def test_sal_dvts_boxed_ends_a_beam_and_its_budget_goes_to_nobody() -> None:
    """Q14: the step says boxed{ though its model would go on."""
    script = Given(texts={(0,): "\\boxed{3}\n\n"}, scored={(0,): 0.9, (2,): 0.9}, depth=3)
    result, _ = solve(SalDvts(n=4, expand=2, max_steps=9), script)
    assert set(chosen(result)) == {(0,), (1,), (2, 0, 0), (2, 0, 1)}
    assert len(paths(result, 3)) == 2


def test_sal_dvts_a_blank_step_ends_a_beam() -> None:
    script = Given(texts={(0,): ""}, scored={(0,): 0.9}, depth=3)
    result, _ = solve(SalDvts(n=2, expand=2, max_steps=9), script)
    assert set(chosen(result)) == {(0,), (1,)}


def test_sal_dvts_looks_ahead_greedily_and_appends_the_first_step_alone() -> None:
    """Q11: (0,) looks better, where (1,) leads is better."""
    script = Given(scored={(0,): 0.9, (1,): 0.1, (0, 0): 0.2, (1, 0): 0.8}, depth=9)
    result, engine = solve(SalDvts(n=2, expand=2, lookahead=1, max_steps=2), script)
    assert set(chosen(result)) == {(1, 1), (1, 2)}  # (1, 0) was the look ahead
    assert all(each.sampling.is_greedy for each in engine.trees[0].options[1:3])


# --- compute-optimal-tts ---------------------------------------------------------------------------------------------


def test_cotts_returns_k_answers_and_stops_with_the_kth() -> None:
    """Q2: eight first steps, two branches with four samples each, two answers."""
    script = Given(scored={(1,): 0.9, (4,): 0.8, (1, 2): 0.7, (4, 3): 0.6}, depth=2)
    result, _ = solve(CottsBeam(n=8, expand=4, max_steps=9), script)
    assert paths(result, 1) == {(place,) for place in range(8)}
    assert paths(result, 2) == {(1, place) for place in range(4)} | {(4, place) for place in range(4)}
    assert set(chosen(result)) == {(1, 2), (4, 3)}


def test_cotts_an_ended_branch_stays_in_the_competition() -> None:
    """(0,) has ended, and takes one of two places: the width shrinks, nobody is refilled."""
    script = Given(ends={(0,): "eos"}, scored={(0,): 0.9, (1,): 0.8, (1, 0): 0.7}, depth=2)
    result, _ = solve(CottsBeam(n=4, expand=2, max_steps=9), script)
    assert set(chosen(result)) == {(0,), (1, 0)}
    assert paths(result, 2) == {(1, 0), (1, 1)}
    worse = Given(ends={(0,): "eos"}, scored={(0,): 0.1, (1,): 0.8, (2,): 0.7}, depth=2)
    result, _ = solve(CottsBeam(n=4, expand=2, max_steps=9), worse)
    assert (0,) not in chosen(result)


def test_cotts_boxed_ends_a_branch() -> None:
    """Q14."""
    script = Given(texts={(0,): "\\boxed{1}\n\n"}, scored={(0,): 0.9}, depth=3)
    result, _ = solve(CottsBeam(n=2, expand=2, max_steps=9), script)
    assert set(chosen(result)) == {(0,)}


def test_cotts_cut_blank_and_equal_children_are_thrown_away() -> None:
    """Q6, Q7: of four first steps one is left, whose two samples say the same."""
    script = Given(
        ends={(0,): "length"}, texts={(1,): " ", (2,): "a\n\n", (3,): "a\n\n"}, scored={(0,): 0.9, (3,): 0.8},
        depth=2,
    )  # fmt: skip
    result, _ = solve(CottsBeam(n=4, expand=2, max_steps=9), script)
    assert paths(result, 2) == {(2, 0), (2, 1)}
    assert set(chosen(result)) == {(2, 0), (2, 1)}


def test_cotts_a_node_without_children_is_tried_again_and_then_ended() -> None:
    """Three more tries of two samples each; the node itself is the answer."""
    blanks = {(0, place): "" for place in range(99)}
    result, _ = solve(CottsBeam(n=2, expand=2, max_steps=9), Given(texts=blanks, scored={(0,): 0.9}))
    assert len(paths(result, 2)) == 8
    assert set(chosen(result)) == {(0,)}


def test_cotts_the_root_takes_what_comes_in_the_end() -> None:
    blanks = {(place,): "" for place in range(99)}
    result, _ = solve(CottsBeam(n=2, expand=2, max_steps=2), Given(texts=blanks))
    assert len(paths(result, 1)) == 8
    assert result.candidates


def test_cotts_depth_ends_a_branch() -> None:
    result, _ = solve(CottsBeam(n=4, expand=2, max_steps=3), Given(depth=99))
    assert {len(path) for path in chosen(result)} == {3}


# --- its_hub ---------------------------------------------------------------------------------------------------------


def test_its_the_first_level_has_n_over_k_branches() -> None:
    """Q15: budget 8, K = 2: levels of 4, 8, 8."""
    result, _ = solve(ItsBeam(n=8, keep=2, max_steps=2), Given(scored={(1,): 0.9, (3,): 0.8}, depth=99))
    assert len(paths(result, 1)) == 4
    assert paths(result, 2) == {(1, place) for place in range(4)} | {(3, place) for place in range(4)}
    assert len(paths(result, 3)) == 8
    assert not paths(result, 4)  # Q16: max_steps + 1


def test_its_n_equal_to_k_grows_one_branch_alone() -> None:
    """Q15."""
    result, _ = solve(ItsBeam(n=4, keep=4, max_steps=3), Given(depth=99))
    assert [len(paths(result, depth)) for depth in range(1, 6)] == [1, 1, 1, 1, 0]


def test_its_stopped_branches_are_copied() -> None:
    """(0,) has stopped and stays best: it takes half of the population, and three quarters of the result."""
    script = Given(texts={(0,): "\\boxed{1}\n\n"}, scored={(0,): 0.9, (1,): 0.8}, depth=99)
    result, _ = solve(ItsBeam(n=4, keep=2, max_steps=1), script)
    assert paths(result, 2) == {(1, 0), (1, 1)}
    counts = chosen(result)
    assert counts[0,] == 2
    assert sum(counts.values()) == 4


def test_its_the_end_of_a_solution_is_not_noticed() -> None:
    """Q16: the model has ended without the stop token; its branch goes on for nothing until the last step."""
    script = Given(ends={(0,): "eos"}, scored={(0,): 0.9, (1,): 0.8}, depth=99)
    result, engine = solve(ItsBeam(n=4, keep=2, max_steps=3), script)
    assert chosen(result) == {(0,): 4}
    assert paths(result, 2) == {(1, 0), (1, 1)}
    assert not paths(result, 3)  # from here on all are copies of it
    assert engine.trees[0].closed


def test_its_ties_go_to_the_first() -> None:
    result, _ = solve(ItsBeam(n=4, keep=2, max_steps=1), Given(depth=99))
    assert paths(result, 2) == {(0, 0), (0, 1), (1, 0), (1, 1)}
