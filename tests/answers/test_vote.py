"""Votes: classes, weights, tie-breaks, and candidates without an answer or a score."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwise.answers.canonical import canonical
from branchwise.answers.vote import VOTES, Vote, choose, percentile
from branchwise.errors import ConfigError, InputError
from branchwise.types import Candidate, Node


def candidates(*pairs: tuple[str | None, float | None]) -> list[Candidate]:
    root = Node(0, None, 0, 0, 0)
    return [
        Candidate(Node(1 + index, root, index, 1, 0), f"text {index}", answer, [], score, "eos")
        for index, (answer, score) in enumerate(pairs)
    ]


def chosen_index(pairs: list[tuple[str | None, float | None]], vote: Vote) -> int:
    chosen = choose(candidates(*pairs), vote).chosen
    assert chosen is not None
    return chosen.node.index


THREE = [("1/2", 0.4), ("7", 0.9), (r"\frac12", 0.45), ("0.5", 0.2), ("8", 0.95)]


def test_the_three_votes() -> None:
    assert chosen_index(THREE, "majority") == 2  # the best-scored member of the largest class
    assert chosen_index(THREE, "max") == 4
    assert chosen_index(THREE, "weighted") == 2
    assert choose(candidates(*THREE), "weighted").votes == [
        (r"\frac12", pytest.approx(1.05)),
        ("8", 0.95),
        ("7", 0.9),
    ]


@pytest.mark.parametrize("vote", VOTES)
def test_ties_go_to_the_highest_score_then_to_the_smallest_path(vote: Vote) -> None:
    assert chosen_index([("1", 0.5), ("2", 0.5)], vote) == 0
    assert chosen_index([("2", 0.5), ("1", 0.5), ("1", 0.5), ("2", 0.5)], vote) == 0
    assert chosen_index([("1", None), ("2", None)], vote) == 0


def test_majority_tie_goes_to_the_highest_single_score() -> None:
    assert chosen_index([("1", 0.5), ("2", 0.1), ("1", 0.5), ("2", 0.8)], "majority") == 3
    assert chosen_index([("1", 0.25), ("2", 0.0), ("1", 0.5), ("2", 0.75)], "weighted") == 3


@pytest.mark.parametrize("vote", VOTES)
def test_no_answer_never_wins_unless_nobody_has_one(vote: Vote) -> None:
    assert chosen_index([(None, 0.9), (None, 0.9), ("1", 0.1)], vote) == 2
    assert chosen_index([(None, 0.9), ("1", None)], vote) == 1
    nobody = choose(candidates((None, 0.1), (None, 0.9), (None, None)), vote)
    assert nobody.chosen is not None
    assert nobody.chosen.node.index == 1
    assert nobody.votes == []


def test_nothing_to_choose_from() -> None:
    assert choose([], "majority").chosen is None


def test_algebra_merges_classes_only_when_asked() -> None:
    pairs: list[tuple[str | None, float | None]] = [("(x+1)^2", 0.4), ("3", 0.5), ("x^2+2x+1", 0.4)]
    assert choose(candidates(*pairs), "weighted").votes[0] == ("3", 0.5)
    merged = choose(candidates(*pairs), "weighted", same=lambda one, other: "x" in one and "x" in other)
    assert merged.votes[0] == ("(x+1)^2", pytest.approx(0.8))


@pytest.mark.parametrize(
    ("answers", "classes"),
    [
        (["5", "5 minutes", "5 min"], [3]),
        (["5", "5 minutes", "5 hours"], [1, 1, 1]),
        (["5 minutes", "5 hours", "5 minutes", "5", "5"], [2, 2, 1]),
        (["5 cm", "5 m"], [1, 1]),
        (["3 AM", "3 PM", "3 p.m."], [2, 1]),
        (["5:00", "5:00 p.m."], [2]),
        (["$$", "7", "---", r"\text{}", r"\[", ""], [1]),
        (["60 mph", "60 miles per hour", "60 km/h"], [2, 1]),
        (["5 eggs", "5", "5 large eggs"], [3]),
    ],
)
def test_units_split_classes_only_where_they_differ(answers: list[str], classes: list[int]) -> None:
    selection = choose(candidates(*((answer, 0.5) for answer in answers)), "majority")
    assert [weight for _, weight in selection.votes] == classes


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"\(1,\).*NaN"):
        choose(candidates(("1", 0.5), ("2", math.nan)), "majority")
    with pytest.raises(ConfigError, match="majority"):
        choose([], cast(Vote, "plurality"))


def slow_winner(pairs: list[tuple[str | None, float | None]], vote: Vote) -> int:
    """All rules again, spelled out."""
    voters = [index for index, (answer, _) in enumerate(pairs) if answer is not None]
    weight: dict[str, float] = defaultdict(float)
    if not voters:
        return max(range(len(pairs)), key=lambda index: (cast(float, pairs[index][1]), -index))
    for index in voters:
        form, score = canonical(cast(str, pairs[index][0])), cast(float, pairs[index][1])
        weight[form] = {
            "majority": weight[form] + 1,
            "max": max(weight[form], score),
            "weighted": weight[form] + score,
        }[vote]
    return max(
        voters, key=lambda index: (weight[canonical(cast(str, pairs[index][0]))], cast(float, pairs[index][1]), -index)
    )


# Multiples of 1/8 add up exactly, so that ties are ties.
scored = st.lists(
    st.tuples(st.sampled_from([None, "1", "2", "2.0", "3", "6/2"]), st.integers(0, 8).map(lambda eighth: eighth / 8)),
    min_size=1,
    max_size=12,
)


@given(scored, st.sampled_from(VOTES[:3]), st.randoms(use_true_random=False))  # those of places: see below
def test_against_the_slow_reference_in_any_order(
    pairs: list[tuple[str | None, float | None]], vote: Vote, shuffler: random.Random
) -> None:
    shuffled = candidates(*pairs)
    shuffler.shuffle(shuffled)
    selection = choose(shuffled, vote)
    assert selection.chosen is not None
    assert selection.chosen.node.index == slow_winner(pairs, vote)
    assert [candidate.node.index for candidate in selection.candidates] == list(range(len(pairs)))
    assert [weight for _, weight in selection.votes] == sorted((weight for _, weight in selection.votes), reverse=True)


# --- Borda votes, and those of the surest -----------------------------------------------------------------------------


def test_borda_votes_by_hand() -> None:
    pairs: list[tuple[str | None, float | None]] = [("1", 0.2), ("2", 0.9), ("1", 0.5), (None, 0.7), ("3", 0.1)]
    # places by score: "2" 5, no answer 4, "1" 3, "1" 2, "3" 1
    assert choose(candidates(*pairs), "borda", power=1).votes == [("2", 5.0), ("1", 5.0), ("3", 1.0)]
    assert choose(candidates(*pairs), "borda", power=0).votes == [("1", 2.0), ("2", 1.0), ("3", 1.0)]
    assert choose(candidates(*pairs), "borda", power=50).votes[0] == ("2", 5.0**50)
    halves = choose(candidates(*pairs), "borda").votes
    assert halves[0] == ("1", pytest.approx(3**0.5 + 2**0.5))


def test_equal_scores_share_their_places_and_none_has_no_votes() -> None:
    assert choose(candidates(("1", 0.5), ("2", 0.5), ("3", None)), "borda", power=1).votes == [
        ("1", 2.5), ("2", 2.5), ("3", 0.0),
    ]  # fmt: skip
    two = [replace(each, count=2) for each in candidates(("1", 0.9))] + candidates(("1", 0.5), ("2", 0.4))[1:]
    assert choose(two, "borda", power=1).votes == [("1", 5.0), ("2", 1.0)]


@given(st.lists(st.tuples(st.sampled_from(["1", "2", "3", None]), st.floats(0, 1)), min_size=1, max_size=12))
def test_borda_of_power_zero_is_the_majority(pairs: list[tuple[str | None, float]]) -> None:
    given_ = candidates(*pairs)
    borda, majority = choose(given_, "borda", power=0), choose(given_, "majority")
    assert borda.votes == majority.votes
    assert borda.chosen is majority.chosen


@given(
    st.lists(st.tuples(st.sampled_from(["1", "2", None]), st.floats(0, 1)), min_size=1, max_size=20),
    st.sampled_from([10, 25, 50, 90]),
)
def test_who_is_kept(pairs: list[tuple[str | None, float]], keep: float) -> None:
    stating = [score for answer, score in pairs if answer is not None]
    votes = choose(candidates(*pairs), "majority", keep_percent=keep).votes
    if stating:
        least = np.percentile(stating, 100 - keep)
        kept = sum(score >= least - 1e-12 for score in stating)
        assert 1 <= sum(number for _, number in votes) <= kept
        assert kept >= len(stating) * keep / 100 - 1
    else:
        assert votes == []


def test_of_ten_with_answers_keep_ten_percent_is_the_surest() -> None:
    pairs: list[tuple[str | None, float | None]] = [("1", i / 10) for i in range(9)]
    pairs += [("2", 0.95), (None, 0.99)]
    assert choose(candidates(*pairs), "weighted", keep_percent=10).votes == [("2", 0.95)]
    assert choose(candidates(*pairs), "weighted", keep_percent=90).votes[0] == ("1", pytest.approx(3.6))
    assert choose(candidates(("1", None)), "weighted", keep_percent=10).votes == [("1", 0.0)]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(0, 100))
def test_percentiles_are_those_of_numpy(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent), rel=1e-9, abs=1e-9)
