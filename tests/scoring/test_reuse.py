"""Steps that another tree has left are not scored again: the same numbers, and those they had, in any order."""

from __future__ import annotations

import random

import pytest
import torch

from branchwise.scoring.scorer import PrmTree, Scorer
from branchwise.types import Node
from model_tools import cpu_prm
from scoring.test_incremental import checkpoint_for, load, make_scorer, make_tree, score_in

PROBLEM = "What is 12+3*4-5+60?"


def open_tree(scorer: Scorer, root: Node, *, reuse: bool = True, question: str = PROBLEM) -> PrmTree:
    return scorer.open(
        root, question, branches=8, paths=8, steps=9, tokens=400, step_tokens=60, reuse=reuse
    )  # fmt: skip


def spent(tree: PrmTree, nodes: list[Node]) -> tuple[int, int]:
    """PRM tokens fed for a tree, and those that were not."""
    fed, kept = tree.prompt_tokens, tree.cached_tokens
    return fed + sum(node.cost.prm_tokens for node in nodes), kept + sum(node.cost.cached_tokens for node in nodes)


@pytest.mark.parametrize("name", ["qwen-prm", "math-shepherd", "skywork"])
def test_a_tree_again_costs_nothing_and_scores_the_same(name: str) -> None:
    scorer = make_scorer(load(name, torch.float32))
    first = make_tree()
    tree = open_tree(scorer, first[0])
    expected = score_in(scorer, tree, [first[1:]])
    fed, kept = spent(tree, first[1:])
    assert kept == 0
    scorer.close(tree)
    rows = scorer.runner.stats.rows
    for order in (1, 2):
        again = make_tree()
        tree = open_tree(scorer, again[0])
        shuffled = again[1:]
        random.Random(order).shuffle(shuffled)
        assert score_in(scorer, tree, [[node] for node in shuffled]) == expected
        assert spent(tree, again[1:]) == (0, fed)
        scorer.close(tree)
    assert scorer.runner.stats.rows == rows
    without = make_tree()
    tree = open_tree(scorer, without[0], reuse=False)
    assert score_in(scorer, tree, [without[1:]]) == expected
    assert spent(tree, without[1:]) == (fed, 0)
    scorer.close(tree)
    assert scorer.kv.free_blocks == scorer.kv.n_blocks
    assert scorer.kv.n_blocks - scorer.kv.tree.n_free_blocks == scorer.kv.prefixes.n_blocks


def test_trees_that_come_together_are_fed_once_and_may_go_at_any_time() -> None:
    prm = cpu_prm(checkpoint_for("qwen-prm"), torch.float32)
    alone = make_scorer(prm)
    single = make_tree()
    tree = open_tree(alone, single[0])
    expected = score_in(alone, tree, [single[1:]])
    fed, _ = spent(tree, single[1:])
    scorer = make_scorer(prm, batch_rows=40)
    nodes = [make_tree() for _ in range(3)]
    trees = [open_tree(scorer, each[0]) for each in nodes]
    for each, one in zip(trees, nodes, strict=True):
        for node in one[1:]:
            scorer.submit(each, node)
    scorer.poll()
    scorer.close(trees[0])  # whose prompt and steps are under way
    while not scorer.idle:
        scorer.poll()
    for one in nodes[1:]:
        assert {node.id: node.score for node in one[1:]} == expected
    found = [spent(each, one[1:]) for each, one in zip(trees[1:], nodes[1:], strict=True)]
    assert [sum(pair) for pair in found] == [fed, fed]
    assert found[0][1] + found[1][1] >= fed
    for each in trees:
        scorer.close(each)
    assert scorer.kv.free_blocks == scorer.kv.n_blocks


def test_scores_are_the_same_while_kept_steps_are_evicted() -> None:
    prm = cpu_prm(checkpoint_for("qwen-prm"), torch.float32)
    scorer = make_scorer(prm)
    expected: dict[int, float | None] = {}
    for turn in range(4):
        nodes = make_tree()
        tree = open_tree(scorer, nodes[0])
        found = score_in(scorer, tree, [[node] for node in nodes[1:]])
        expected = expected or found
        assert found == expected
        scorer.close(tree)
        scorer.kv.prefixes.evict(3 * turn + 1)
        scorer.kv.tree.check()
