"""Searches that are paused, and lose KV that nobody needs for now, find what they find undisturbed, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import twins
from benchmarks.gpu import synthetic
from branchwise.backend.base import Backend
from branchwise.backend.cpu.backend import CpuBackend
from branchwise.pair.pair import ModelPair
from branchwise.search.driver import submit
from branchwise.search.service import Service
from branchwise.search.session import SearchOptions
from branchwise.strategies import Strategy, make_strategy
from branchwise.tree import walk
from branchwise.types import Problem, Result, Sampling, Settings
from full_device import ENDS, clean, tiny_pair, told

SEARCHES: list[Strategy] = [
    make_strategy("beam", n=4, expand=2, max_steps=4),
    make_strategy("dvts", n=4, expand=2, max_steps=4),
    make_strategy("best_of_n", n=3),
    make_strategy("majority", n=3, max_steps=5),
    make_strategy("mcts", n=4, expand=2, max_steps=3),
]
SAMPLINGS = [Sampling(1.0, top_p=0.9), Sampling(1.2, repetition_penalty=1.3, presence_penalty=0.5)]


@contextmanager
def backends(name: str) -> Iterator[Backend]:
    with pytest.MonkeyPatch.context() as patch:
        if name == "bursts":
            twins.install(patch)
            yield twins.TwinBackend()
        else:
            yield CpuBackend()


def bits(result: Result) -> Any:
    """Every bit that must not depend on timing."""
    nodes = [
        (node.lineage_path, node.tokens, node.text, node.logprob, node.score, node.finish, node.cut, node.pruned)
        for node in walk(result.tree)
    ]
    return nodes, result.answer, result.votes, result.scores, result.cuts, result.cost.generated_tokens


def problems(first: int) -> list[Problem]:
    return [
        Problem(f"p{i}", str(4 + i), prompt=[1 + i] * (4 + 30 * i), strategy=SEARCHES[i % 5], sampling=SAMPLINGS[i % 2])
        for i in range(first, first + 4)
    ]


def disturb(pair: ModelPair[Any], chance: random.Random) -> None:
    """Take KV from some open tree, in one way or another."""
    trees = list(pair._trees.values())
    if not trees:
        return
    tree = chance.choice(trees)
    what = chance.randrange(12)
    if what == 0 and not tree.paused:
        pair.pause(tree)
        assert tree.policy.lease.blocks == 0
    elif what == 1:
        pair.policy.shed(tree.policy)
    elif what in (2, 3):
        for judged in tree.judges.values():
            pair.judge.shed(judged, hard=what == 3)


def solved(pair: ModelPair[Any], given: list[Problem], chance: random.Random | None) -> list[Result]:
    """All problems side by side, in their order."""
    service: Service[Any] = Service(pair)
    how = SearchOptions(SEARCHES[0], Settings(endings=ENDS, max_tokens=14, max_step_tokens=4, reuse=False))
    tickets = [submit(service, problem, how) for problem in given]
    while not all(ticket.done() for ticket in tickets):
        service.step()
        if chance is not None:
            disturb(pair, chance)
            pair.policy._land()  # a burst under way holds slots that nobody has yet
            for kv in (pair.policy.kv, pair.judge.kv):
                kv.tree.check()
                leases = [lease for tree in pair._trees.values() for lease in tree.leases if lease.cache is kv]
                assert sum(lease.blocks for lease in leases) == kv.n_blocks - kv.free_blocks
    clean(pair)
    return [ticket.result() for ticket in tickets]


def thrice(numbers: synthetic.Numbers, index: int, text: str) -> list[list[int]]:
    """Readings of a step: two checks and the score, all written otherwise than for the steps below."""
    step = numbers.step(index, text)
    return [[3, *step], [3, *step, 4, 5], [3, *step, 6]]


@pytest.mark.parametrize(
    ("backend", "rounds", "checks"),
    [
        ("cpu", 25, False), ("cpu", 5, True), ("bursts", 2, False),
        *(pytest.param("bursts", 25, checks, marks=pytest.mark.slow) for checks in (False, True)),
    ],
)  # fmt: skip
def test_pauses_change_nothing(backend: str, rounds: int, checks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four searches a round."""
    rebuilt = 0
    if checks:
        monkeypatch.setattr(synthetic.Numbers, "readings", thrice)
    with backends(backend) as made:
        pair = tiny_pair(made, 4 << 20)
        for order in range(rounds):
            pair.policy.speculate, pair.policy.rows.prefill_rows, pair.judge.batch_rows = False, 512, 512
            expected = solved(pair, problems(order % 5), None)
            assert all(result.cost.rebuilt_tokens == 0 for result in expected)
            pair.policy.speculate = order % 2 == 0
            pair.policy.rows.prefill_rows = pair.judge.batch_rows = (16, 40, 512)[order % 3]
            found = solved(pair, problems(order % 5), random.Random(order))
            rebuilt += sum(result.cost.rebuilt_tokens for result in found)
            if backend == "cpu":
                assert [bits(result) for result in found] == [bits(result) for result in expected], order
            else:  # in plain torch a product's bits depend on its rows
                assert told(found) == told(expected), order
    assert rebuilt > 100 * rounds
