"""DeepConf: who is stopped and where, who votes, when it is over; the rule spelled out over whole traces."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise.errors import ConfigError
from branchwise.strategies import ConfidenceVote, DeepConf, make_strategy
from branchwise.tree import walk
from branchwise.types import Node, Problem, Result
from search.scripted import MAX_STEPS, Path, Script, ScriptedPair, run
from strategies.test_strategies import scripts, solve

WINDOW = 4


class Traces(Script):
    """Chain i has the steps traces[i], each a list of the confidences of its tokens, and the answer answers[i]."""

    def __init__(self, traces: list[list[list[float]]], answers: list[str | None]) -> None:
        super().__init__()
        object.__setattr__(self, "given", (traces, answers))

    def finish(self, problem: str, path: Path):  # type: ignore[no-untyped-def]
        return "eos" if len(path) == len(self.given[0][path[0]]) else "stop"  # type: ignore[attr-defined]

    def text(self, problem: str, path: Path) -> str:
        answer = self.given[1][path[0]]  # type: ignore[attr-defined]
        ends = self.finish(problem, path) == "eos" and answer is not None
        return f"\\boxed{{{answer}}}" if ends else f"step {path}\n\n"

    def sure(self, problem: str, path: Path) -> list[float]:
        return self.given[0][path[0]][len(path) - 1]  # type: ignore[attr-defined,no-any-return]


def searched(traces: list[list[list[float]]], answers: list[str | None] | None = None, **options: Any) -> Result:
    strategy = DeepConf(**{"n": len(traces), "window": WINDOW, "consensus": 1, **options})
    script = Traces(traces, [str(i) for i in range(len(traces))] if answers is None else answers)
    (result,) = run([Problem("p", "text")], strategy, ScriptedPair(script, random.Random(3)))
    assert result.error is None
    return result


def lengths(result: Result) -> list[int]:
    """Steps of every chain."""
    deepest: dict[int, int] = {}
    for node in walk(result.tree):
        if node.depth:
            deepest[node.lineage_path[0]] = max(deepest.get(node.lineage_path[0], 0), node.depth)
    return [deepest[index] for index in sorted(deepest)]


SURE = [[9.0] * WINDOW, [9.0] * WINDOW]
SILENT = [None, None]  # else the first alone would be a consensus


@pytest.mark.parametrize(
    ("tokens", "steps"),
    [([WINDOW - 1, 1], 2), ([WINDOW, 1, 1], 1), ([WINDOW + 1, 1, 1], 1), ([1, WINDOW - 2, 1, 1], 3), ([1, 1], 2)],
)
def test_a_trace_is_stopped_with_the_step_that_fills_a_window(tokens: list[int], steps: int) -> None:
    """Of W - 1, W, W + 1 tokens, and in pieces; one that ends before has no group but all of it."""
    weak = [[1.0] * count for count in tokens]
    result = searched([SURE, weak], SILENT, warmup=1)
    assert lengths(result) == [2, steps]
    assert f"{int(steps < len(tokens))} stopped" in result.why


def test_one_weak_group_between_strong_ones_stops() -> None:
    dip = [[9.0] * 6, [9.0, 1.0, 9.0, 9.0], [9.0] * 5]
    assert lengths(searched([SURE, dip], SILENT, warmup=1)) == [2, 2]
    assert lengths(searched([[[5.0] * 8], dip], SILENT, warmup=1)) == [1, 3]  # mean 7 there
    assert lengths(searched([SURE, dip], SILENT, warmup=1, window=1)) == [2, 2]
    assert lengths(searched([SURE, dip], SILENT, warmup=1, window=100)) == [2, 3]  # none is ever full


@pytest.mark.parametrize(("keep", "kept"), [(10, [14, 15]), (90, list(range(2, 16))), (100, list(range(16)))])
def test_of_sixteen_first_ones_two_or_fourteen_vote(keep: float, kept: list[int]) -> None:
    """keep_percent is what stays, not the percentile: a swap would turn the two cases around."""
    traces = [[[float(i + 1)] * WINDOW] for i in range(16)]
    result = searched(traces, keep_percent=keep)
    assert sorted(int(answer) for answer, _ in result.votes) == kept
    assert result.votes[0] == ("15", 16.0)
    assert len(result.candidates) == 16
    least = np.percentile(np.arange(1, 17), 100 - keep)
    assert f"{len(kept)} of 16 kept, threshold {least:.4f}, 0 stopped" in result.why


def test_weights_are_the_lowest_groups() -> None:
    traces = [[[4.0] * WINDOW], [[9.0] * WINDOW], [[4.5] * WINDOW], [[4.75] * WINDOW]]
    result = searched(traces, ["a", "b", "a", "a"], keep_percent=100)
    assert result.votes == [("a", 13.25), ("b", 9.0)]
    assert result.score == 4.75


def test_no_more_waves_when_enough_agree() -> None:
    traces = [[[9.0] * WINDOW] for _ in range(12)]
    result = searched(traces, ["7"] * 12, warmup=4, wave=2, consensus=0.95)
    assert len(lengths(result)) == 4
    assert "1.000 of all votes agree after 4 of 12" in result.why
    split = searched(traces, ["7", "7", "8", "7", "7", "7", *["7"] * 6], warmup=4, wave=2, consensus=0.8)
    assert len(lengths(split)) == 6  # 3 of 4, then 5 of 6


def test_the_majority_where_nobody_who_is_kept_has_an_answer() -> None:
    traces = [[[9.0] * WINDOW], [[1.0] * WINDOW], [[2.0] * WINDOW]]
    result = searched(traces, [None, "5", "5"], warmup=3)
    assert result.answer == "5"
    assert result.why.startswith("majority: 2 votes")


class Slow:
    """The rule over whole traces: stops by tokens, in order of launch."""

    def __init__(self, strategy: DeepConf, script: Script) -> None:
        self.strategy, self.script = strategy, script
        self.stopped: list[int] = []
        self.lowest: dict[int, float] = {}
        threshold: float | None = None
        begun = 0
        while begun < strategy.n:
            end = min(strategy.n, begun + (strategy.wave if begun else strategy.warmup))
            for chain in range(begun, end):
                self._grow(chain, threshold)
            begun = end
            if threshold is None:
                threshold = float(np.percentile(list(self.lowest.values()), 100 - strategy.keep_percent))
            votes: dict[str, float] = {}
            for chain, low in self.lowest.items():
                if low >= threshold and (answer := self._answer(chain)) is not None:
                    votes[answer] = votes.get(answer, 0.0) + low
            if votes and sum(votes.values()) and max(votes.values()) / sum(votes.values()) >= strategy.consensus:
                break
        self.begun, self.votes = begun, votes

    def _path(self, chain: int) -> Path:
        path: Path = (chain,)
        while self.script.finish("p", path) == "stop" and len(path) < MAX_STEPS:
            path = (*path, 0)
        return path

    def _answer(self, chain: int) -> str | None:
        text = self.script.text("p", self._path(chain))
        return text[7:-1] if "boxed" in text else None

    def _grow(self, chain: int, threshold: float | None) -> None:
        window, whole = self.strategy.window, self._path(chain)
        values = [self.script.sure("p", whole[: depth + 1]) for depth in range(len(whole))]
        tokens = [value for step in values for value in step]
        before_last = len(tokens) - len(values[-1])
        groups = [sum(tokens[end - window : end]) / window for end in range(window, len(tokens) + 1)]
        if threshold is not None and any(group < threshold for group in groups[: max(0, before_last - window + 1)]):
            self.stopped.append(chain)
        else:
            self.lowest[chain] = min(groups, default=sum(tokens) / len(tokens))


@settings(max_examples=60)
@given(
    scripts, st.integers(0, 99), st.integers(1, 9), st.integers(1, 4), st.sampled_from([10, 50, 90]), st.integers(1, 6),
    st.sampled_from([0.5, 0.9, 1.0]),
)  # fmt: skip
def test_the_rule_spelled_out(
    script: Script, order: int, warmup: int, wave: int, keep: float, window: int, consensus: float
) -> None:
    strategy = DeepConf(
        n=11, warmup=warmup, wave=wave, keep_percent=keep, window=window, consensus=consensus, max_steps=MAX_STEPS
    )
    result, _ = solve(strategy, script, order)
    slow = Slow(strategy, script)
    pruned = [node.lineage_path[0] for node in walk(result.tree) if node.pruned and not node.children]
    assert sorted(pruned) == slow.stopped
    assert f"after {slow.begun} of 11" in result.why
    assert sorted(each.node.lineage_path[0] for each in result.candidates) == sorted(slow.lowest)
    if slow.votes:
        assert dict(result.votes) == pytest.approx(slow.votes)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deepconf", {"window": 0}, "deepconf: window is 0, expected a whole number of at least 1"),
        ("deepconf", {"top": 33}, "deepconf: top is 33, expected 1 to 32"),
        ("deepconf", {"warmup": 0}, "deepconf: warmup is 0"),
        ("deepconf", {"keep_percent": 0}, "deepconf: keep_percent is 0, expected more than 0 to 100"),
        ("deepconf", {"consensus": 1.5}, "deepconf: consensus is 1.5, expected 0 to 1"),
        ("confidence", {"measure": "tial"}, "confidence: measure is 'tial', expected one of .*did you mean 'tail'"),
        ("confidence", {"vote": "loud"}, "confidence: vote is 'loud'"),
        ("confidence", {"keep_percent": 101}, "confidence: keep_percent is 101, expected more than 0 to 100"),
        ("confidence", {"power": -1}, "confidence: power is -1, expected 0 to 100"),
    ],
)
def test_options_that_cannot_work(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_strategy(name, **options)


# --- offline votes ---------------------------------------------------------------------------------------------------


def voted(traces: list[list[float]], answers: list[str | None], **options: Any) -> Result:
    strategy = ConfidenceVote(**{"n": len(traces), "window": 2, **options})
    script = Traces([[trace] for trace in traces], answers)
    (result,) = run([Problem("p", "text")], strategy, ScriptedPair(script))
    assert result.error is None
    return result


TRACES = [[1.0, 1.0, 9.0, 9.0], [6.0, 6.0, 6.0, 6.0], [9.0, 9.0, 1.0, 1.0], [5.0, 5.0, 5.5, 5.5]]


@pytest.mark.parametrize(
    ("measure", "scores"),
    [
        ("mean", [5.0, 6.0, 5.0, 5.25]),
        ("tail", [9.0, 6.0, 1.0, 5.5]),
        ("lowest", [1.0, 6.0, 1.0, 5.0]),
        ("bottom", [1.0, 6.0, 1.0, 5.0]),
        ("certainty", [2.5, 3.0, 2.5, 2.625]),
    ],
)
def test_measures_weigh(measure: str, scores: list[float]) -> None:
    result = voted(TRACES, ["a", "b", "c", "d"], measure=measure)
    assert dict(result.votes) == dict(zip("abcd", scores, strict=True))
    assert [each.confidence and each.confidence.tokens for each in result.candidates] == [4] * 4


def test_one_without_an_answer_is_dropped_before_the_percentile() -> None:
    """Ten solutions with answers, keep 10 %: the surest of them; the surest of all says nothing."""
    traces = [[float(i)] * 2 for i in range(1, 12)]
    answers = ["x"] * 9 + ["y", None]
    result = voted(traces, answers, keep_percent=10)
    assert result.votes == [("y", 10.0)]
    assert voted(traces, answers, keep_percent=100).answer == "x"
    assert "1 kept of 11" in result.why


def test_greedy_sampling_draws_one() -> None:
    from branchwise.types import Sampling, Settings

    for strategy in (ConfidenceVote(n=5, window=2), DeepConf(n=20, window=2)):
        pair = ScriptedPair(Script(eos=100, length=0))
        (result,) = run([Problem("p", "text")], strategy, pair, settings=Settings(Sampling(0.0)))
        assert result.error is None
        assert [each.count for each in result.candidates] == [strategy.n]


def test_nodes_know_nothing_where_nobody_asks() -> None:
    (result,) = run([Problem("p", "text")], make_strategy("majority", n=2), ScriptedPair())
    nodes: list[Node] = list(walk(result.tree))
    assert all(node.confidence is None for node in nodes)
    assert all(each.confidence is None for each in result.candidates)
