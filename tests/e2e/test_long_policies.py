"""Aggregation and thoughts on a real policy: alike in any batch, and refused where the policy lacks the token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import branchwise as bw
from branchwise.tree import walk

QUESTION = "12+3*4-5+60=?"
SEARCHES = [
    bw.RSA(n=4, k=2, loops=3, agree=None, frame="{solutions}\n{problem}"),
    bw.RSA(n=3, k=1, loops=2, agree=None, frame="{solutions}\n{problem}", ordered=True),
    bw.Thinking(n=4, end="?", interval=2, stable=1),
    bw.Thinking(n=4, end="=", budget=3, waits=1),
]
"""The bundled policy does not think: an equals sign, or a question mark, ends what is taken for its thoughts."""


@pytest.fixture(scope="module")
def engine() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=64 << 20, threads=1, seed=3, max_tokens=250) as made:
        yield made


def told(result: bw.Result) -> object:
    nodes = [(n.lineage_path, n.tokens, n.given, n.logprob, n.finish, n.pruned) for n in walk(result.tree)]
    return nodes, result.votes, result.why


@pytest.fixture(scope="module")
def alone(engine: bw.Engine) -> list[bw.Result]:
    return [engine.solve(QUESTION, search) for search in SEARCHES]


def test_results_are_the_same_in_any_batch(engine: bw.Engine, alone: list[bw.Result]) -> None:
    tickets = [engine.submit(QUESTION, search) for search in SEARCHES]
    tickets.append(engine.submit("7*8+5-20=?", "beam", n=8))
    assert [told(ticket.result()) for ticket in tickets[:-1]] == [told(result) for result in alone]
    for options in ({"speculate": True}, {"max_rows": 3, "prefill_rows": 5, "prefix_cache": False}):
        with bw.Engine(kv_memory=64 << 20, threads=1, seed=3, max_tokens=250, **options) as other:
            again = [other.submit(QUESTION, search) for search in SEARCHES]
            assert [told(ticket.result()) for ticket in again] == [told(result) for result in alone]
    assert engine.policy.kv.free_blocks == engine.policy.kv.n_blocks


def test_what_was_given_is_prefill(alone: list[bw.Result]) -> None:
    for result in alone:
        given = sum(node.given for node in walk(result.tree))
        assert given > 0
        prompt = result.tree.cost.prefill_tokens + result.tree.cost.cached_tokens
        assert result.cost.prefill_tokens + result.cost.cached_tokens == given + prompt
        drawn = sum(len(node.tokens) - node.given for node in walk(result.tree))
        assert result.cost.generated_tokens == drawn


def test_a_policy_that_does_not_think_is_refused(engine: bw.Engine) -> None:
    with pytest.raises(
        bw.ConfigError, match="no token '</think>', which this strategy needs: take a policy that has it"
    ):
        engine.solve(QUESTION, "thinking")
    bad = bw.Problem("bad", QUESTION, strategy=bw.Thinking())
    refused, done = sorted(engine.solve_many([bad, QUESTION], "majority", n=2), key=lambda each: each.error is None)
    assert isinstance(refused.error, bw.ConfigError)
    assert done.answer is not None


def test_a_prompt_that_outgrows_the_context_says_so(engine: bw.Engine) -> None:
    with pytest.raises(bw.StrategyError, match=r"strategy 'rsa' .* the prompt has .* context is 512"):
        engine.solve(QUESTION, "rsa", n=4, agree=None)
