"""Value heads on the bundled policy: the same scores whatever runs beside, and one that is trained here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import branchwise as bw
from branchwise.assets import asset_path
from branchwise.cli.problems import read_rows
from branchwise.engine.reread import Rereader
from branchwise.engine.tap import Tap
from branchwise.scoring.value_head import Calibration, ValueHead
from branchwise.tree import walk
from branchwise.types import Problem
from branchwise.weights import open_checkpoint
from branchwise.weights.identity import identity

POLICY = str(asset_path("policy-small"))
LAYERS, HIDDEN = 3, 96
OPTIONS: dict[str, Any] = {"max_tokens": 100, "dtype": "float32", "threads": 1, "instruction": ""}


def problems(count: int) -> list[Problem]:
    return [row for row in read_rows(asset_path("problems.jsonl"), count) if isinstance(row, Problem)]


@pytest.fixture(scope="module", params=[False, True], ids=["before", "behind"])
def head(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random numbers are a head as good as any, but for what they say."""
    made = torch.Generator().manual_seed(7)
    tensors = [torch.randn(1, 4 * HIDDEN + 4, generator=made), torch.zeros(1)]
    policy = identity(open_checkpoint(POLICY))
    path = tmp_path_factory.mktemp("heads") / "head.safetensors"
    ValueHead(policy, (1, LAYERS), "mean+last", request.param, tensors, Calibration(0.05, 0.0)).save(path)
    return path


def searched(head: Path, strategy: str, *, in_flight: int = 8, **options: Any) -> dict[str, Any]:
    with bw.Engine(POLICY, judge=head, **{**OPTIONS, **options}) as engine:
        results = list(engine.solve_many(problems(4), strategy, n=8, seed=3, max_in_flight=in_flight))
    assert all(result.error is None and not result.unjudged for result in results)
    assert all(result.cost.prm_tokens == 0 and result.cost.prm_flops > 0 for result in results)
    nodes = {each.problem.id: [node for node in walk(each.tree) if node.depth] for each in results}
    assert all(node.states is None for each in nodes.values() for node in each)
    return {id_: [(node.lineage_path, node.text, node.score) for node in each] for id_, each in nodes.items()}


@pytest.mark.parametrize("strategy", ["beam", "best_of_n"])
def test_scores_are_the_same_whatever_runs_beside(head: Path, strategy: str) -> None:
    alone = searched(head, strategy, in_flight=1)
    scores = [score for each in alone.values() for _, text, score in each if text.strip()]
    assert len(set(scores)) > 20
    assert searched(head, strategy) == alone
    assert searched(head, strategy, max_rows=5, prefill_rows=40, speculate=True) == alone
    assert searched(head, strategy, threads=2, prefix_cache=False) == alone


def test_steps_are_those_without_a_head(head: Path) -> None:
    with bw.Engine(POLICY, **OPTIONS) as engine:
        plain = list(engine.solve_many(problems(4), "majority", n=8, seed=3))
    with bw.Engine(POLICY, judge=head, **OPTIONS) as engine:
        voted = list(engine.solve_many(problems(4), "majority", n=8, seed=3))
    assert {each.problem.id: each.votes for each in voted} == {each.problem.id: each.votes for each in plain}
    assert all(node.score is None and node.states is None for each in voted for node in walk(each.tree))


def test_a_head_beside_a_prm(head: Path) -> None:
    with bw.Engine(POLICY, asset_path("prm"), judge=head, judge_rule="product", **OPTIONS) as engine:
        result = engine.solve("12+3*4-5+60=?", "best_of_n", n=4)
        scored = [node for node in walk(result.tree) if node.scores_by is not None]
        assert scored
        for node in scored:
            by = node.scores_by
            assert node.score == by["prm"] * by["value_head"]
        assert all(node.states is None for node in scored)


def test_a_tree_grown_by_hand_and_given_texts(head: Path) -> None:
    with bw.Engine(POLICY, judge=head, **OPTIONS) as engine:
        with engine.open("1+1=?") as tree:
            scores = tree.score(tree.expand(tree.root, 3))
            assert all(0 < score < 1 for score in scores)
        with pytest.raises(bw.InputError, match="cannot score given texts"):
            engine.score_steps([("1+1=?", ["1+1=2"])])


def test_the_head_of_another_policy_is_refused(head: Path) -> None:
    with pytest.raises(bw.ConfigError, match=r"trained for another policy .*train-head"):
        bw.Engine(asset_path("policy-large"), judge=head, **OPTIONS)


def test_states_that_are_read_again_are_those_of_the_search() -> None:
    from branchwise.engine.engine import StepEngine

    with bw.Engine(POLICY, **OPTIONS) as engine:
        policy = engine.policy
        tapped = StepEngine(policy.model, policy.tokenizer, policy.kv, tap=Tap((1, LAYERS)))
        settings = replace(engine._settings({}, 5), states=True)
        prompt = policy.tokenizer.encode("12+3*4=?")
        tree = tapped.open(prompt, lineage=1, branches=3, paths=3, steps=9, settings=settings)
        nodes = [tree.root]
        for node in nodes:
            if node is tree.root or node.finish == "stop":
                tapped.expand(tree, node, 3 if node is tree.root else 1, settings.step())
                while not tapped.idle:
                    nodes += [each for _, each in tapped.poll()]
        free = policy.kv.free_blocks
        prompts = [tree.prompt, policy.tokenizer.encode("12+3*5=?")]
        with Rereader(policy, (1, LAYERS), prompts) as reader:
            reader.read(prompts[1], [[tree.prompt]])  # so that the other one begins with what is fed already
            for node in nodes:
                if node.is_final:
                    (found,) = reader.read(tree.prompt, [[step.tokens for step in node.path]])
                    for step, states, logprob in zip(node.path, *found, strict=True):
                        assert step.logprob == pytest.approx(logprob.item(), abs=1e-4)
                        both = torch.cat([states[:, 0].flatten(), states[:, 1].flatten()])
                        torch.testing.assert_close(both, step.states, rtol=1e-4, atol=1e-4)
        assert policy.kv.free_blocks == free
        tapped.close(tree)


# --- training --------------------------------------------------------------------------------------------------


def test_a_head_that_is_trained_here(tmp_path: Path) -> None:
    out = tmp_path / "head.safetensors"
    with bw.Engine(POLICY, **OPTIONS) as engine:
        made = bw.train_head(engine, problems(16), out, n=4, seed=1, layers=[3])
        again = bw.train_head(engine, problems(16), tmp_path / "again.safetensors", n=4, seed=1, layers=[3])
    report = made.report
    assert (report["problems"], report["solutions"]) == (16, 64)
    assert 0 < report["right"] < 1
    assert all(0 <= report[name] <= 1 for name in ("auc", "auc_within", "brier", "ece"))
    assert sum(n for _, _, n in made.bins["last steps"]) == 64
    assert again.report == report
    assert again.path.read_bytes() == out.read_bytes()
    with bw.Engine(POLICY, judge=out, **OPTIONS) as engine:
        result = engine.solve("12+3*4-5+60=?", "weighted_best_of_n", n=8)
        assert 0 < result.score < 1


def test_what_teaches_nothing_is_refused(tmp_path: Path) -> None:
    out, given = tmp_path / "head.safetensors", problems(10)
    silent = [replace(each, answer=None) for each in given]
    wrong = [replace(each, answer="no such answer") for each in given]
    with bw.Engine(POLICY, **{**OPTIONS, "max_tokens": 20}) as engine:
        for problems_, options, error, words in [
            (silent, {}, bw.InputError, "none of the 10 problems has an 'answer'"),
            (given[:3], {}, bw.ConfigError, "2 solutions of each of 3 problems are too few"),
            (given, {"n": 1}, bw.ConfigError, "1 solutions of each of 10 problems are too few"),
            (wrong, {}, bw.InputError, "all 20 solutions are wrong, so there is nothing to tell apart: take easier"),
            (given, {"layers": [9]}, bw.ConfigError, r"layers=\[9\]: expected some of 1 to 3"),
            (given, {"out": tmp_path / "head.gguf"}, bw.ConfigError, "expected a name that ends in .safetensors"),
        ]:
            with pytest.raises(error, match=words):
                bw.train_head(engine, problems_, **{"out": out, "n": 2, **options})
    assert not out.exists()
