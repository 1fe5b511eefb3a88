"""Further prompts and given text with real models: judged as their own question, paid for, alike in any batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import branchwise as bw
from branchwise.strategies.protocol import Action
from branchwise.tree import walk
from branchwise.types import Node

OTHER = "7*8+5-20=?"
FEED = "7*8=56\n\n"


class Twice:
    """Solves the problem and another one, whose second half begins with a step that is given."""

    name = "twice"

    def demand(self, limits: bw.Limits) -> bw.Demand:
        return bw.Demand(8, 8, 6, scores=True)

    def start(self, problem: bw.Problem, root: Node, random: Any) -> bw.State:
        state = bw.State(problem, root)
        self.next: list[Action] = [
            bw.Ask(root, 4, steps=6, lane=0), bw.Ask(root, 2, steps=6, prompt=OTHER, lane=1),
            bw.Ask(root, 2, steps=6, prompt=OTHER, feed=FEED, lane=2),
        ]  # fmt: skip
        return state

    def propose(self, state: bw.State) -> list[Action]:
        actions, self.next = self.next, []
        return actions

    def observe(self, state: bw.State, replies: list[bw.Reply]) -> None:
        state.finished += replies[0].nodes

    def select(self, state: bw.State) -> bw.Selection:
        return bw.Majority(n=1).select(state)


@pytest.fixture(scope="module")
def engine() -> Iterator[bw.Engine]:
    with bw.Engine(kv_memory=64 << 20, threads=1, seed=3) as made:
        yield made


def told(result: bw.Result) -> list[object]:
    return [(n.lineage_path, n.tokens, n.given, n.logprob, n.score, n.finish, n.is_prompt) for n in walk(result.tree)]


@pytest.fixture(scope="module")
def alone(engine: bw.Engine) -> bw.Result:
    return engine.solve("12+3*4-5+60=?", Twice())


def test_the_judge_is_told_the_question_of_the_prompt(engine: bw.Engine, alone: bw.Result) -> None:
    planted = [node for node in walk(alone.tree) if node.is_prompt]
    assert [node.text for node in planted] == [OTHER, OTHER]
    for prompt in (alone.tree, *planted):
        question = prompt.text or alone.problem.text
        leaves = [node for node in walk(prompt) if node.depth and not node.children and node.prompt is prompt]
        assert leaves
        for leaf in leaves:
            steps = [step.text for step in leaf.path]
            scores = engine.score_steps([(question, steps)])[0]
            assert [step.score for step in leaf.path] == scores


def test_results_are_the_same_in_any_batch(engine: bw.Engine, alone: bw.Result) -> None:
    tickets = [engine.submit("12+3*4-5+60=?", Twice()), engine.submit(OTHER, "beam", n=8)]
    tickets.append(engine.submit("12+3*4-5+60=?", Twice(), seed=4))
    assert told(tickets[0].result()) == told(alone)
    assert told(tickets[2].result()) != told(alone)
    with bw.Engine(kv_memory=64 << 20, threads=1, seed=3, speculate=True, max_rows=3, prefill_rows=7) as other:
        assert told(other.solve("12+3*4-5+60=?", Twice())) == told(alone)


def test_what_was_given_was_read_and_not_written(engine: bw.Engine, alone: bw.Result) -> None:
    fed = [node for node in walk(alone.tree) if node.given and not node.is_prompt]
    assert len(fed) == 2
    for node in fed:
        assert node.text.startswith(FEED)
        assert node.cost.prefill_tokens == node.given
        assert node.cost.generated_tokens == len(node.tokens) - node.given
    cost = alone.cost
    per_token = engine.policy.flops_per_token
    assert engine.judge is not None
    judged = cost.prm_tokens * engine.judge.flops_per_token
    assert cost.flops == pytest.approx((cost.generated_tokens + cost.prefill_tokens) * per_token + judged)
    assert cost.generated_tokens == sum(len(n.tokens) - n.given for n in walk(alone.tree))


def test_nothing_is_held_afterwards(engine: bw.Engine, alone: bw.Result) -> None:
    assert engine.judge is not None
    for model in (engine.policy, engine.judge):
        assert model.kv.free_blocks == model.kv.n_blocks


def test_a_tree_grown_by_hand_may_begin_steps_with_given_text(engine: bw.Engine) -> None:
    with engine.open(OTHER) as tree:
        (node,) = tree.expand(tree.root, feed=FEED, temperature=0.0)
        (plain,) = tree.expand(tree.root, temperature=0.0)
        assert node.text.startswith(FEED)
        assert (node.given > 0, plain.given) == (True, 0)
        with pytest.raises(bw.ConfigError, match="feed=''"):
            tree.expand(tree.root, feed="")


def test_a_prompt_that_cannot_be_ends_the_search_alone(engine: bw.Engine) -> None:
    class Bad(Twice):
        def start(self, problem: bw.Problem, root: Node, random: Any) -> bw.State:
            state = super().start(problem, root, random)
            self.next = [bw.Ask(root, 1, prompt="1+" * 5000)]
            return state

    good = engine.submit("12+3*4-5+60=?", Twice())
    with pytest.raises(bw.StrategyError, match=r"the prompt of its Ask cannot be: .*context"):
        engine.solve("1+1=?", Bad())
    assert good.result().error is None
