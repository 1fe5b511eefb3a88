"""Confidence of steps against a pass over the whole sequence in float64; asking for it changes nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import branchwise as bw
from branchwise.confidence import Confidence, ConfidenceOptions
from branchwise.models.decoder import Decoder
from branchwise.tree import walk
from branchwise.types import Node, Sampling
from checkpoints import random_checkpoint
from engine.test_step_engine import make_engine, open_tree, options_of, run_until_idle
from model_tools import all_logits, cpu_decoder

PROMPT = [5, 9, 9, 30, 31, 5, 77, 40, 41, 42, 43]
TOLERANCE = 1e-4  # of the pass; that of the numbers by themselves is in tests/kernels/test_sureness.py
WISH = ConfidenceOptions(top=7, window=5)


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def model(request: pytest.FixtureRequest) -> Decoder:
    return cpu_decoder(random_checkpoint(request.param, seed=11), torch.float32)


def told(node: Node) -> Confidence:
    assert node.confidence is not None
    return node.confidence


def test_steps_know_how_sure_the_model_was(model: Decoder) -> None:
    engine = make_engine(model)
    tree, other = (open_tree(engine, PROMPT, Sampling(1.2, top_k=30), key) for key in (1, 2))
    wish = replace(options_of(tree), confidence=WISH)
    engine.expand(tree, tree.root, 3, wish)
    engine.expand(other, other.root, 3, options_of(other))
    run_until_idle(engine)
    engine.expand(tree, tree.root.children[0], 2, wish)
    run_until_idle(engine)
    for node in [*tree.root.children, *tree.root.children[0].children]:
        before = [token for step in node.path[:-1] for token in step.tokens]
        logits = all_logits(model, PROMPT + before + node.tokens)[len(PROMPT) + len(before) - 1 : -1].double()
        total = logits.logsumexp(1)
        confidence = told(node)
        assert confidence.values == pytest.approx((total - logits.topk(7).values.mean(1)).tolist(), abs=TOLERANCE)
        flat = total - logits.mean(1) - math.log(logits.shape[1])
        assert confidence.certainties == pytest.approx(flat.tolist(), abs=TOLERANCE)
        assert confidence.start == len(before)
        assert confidence.end == len(before) + len(node.tokens)
    first, second = (told(child) for child in tree.root.children[0].children)
    assert first.before is second.before is told(tree.root.children[0])
    assert all(node.confidence is None for node in other.root.children)


def test_asking_changes_no_token_and_nothing_depends_on_company(model: Decoder) -> None:
    def grown(ask: bool, company: int) -> list[object]:
        engine = make_engine(model)
        trees = [open_tree(engine, PROMPT, Sampling(1.0), key) for key in range(1, 2 + company)]
        for place, each in enumerate(trees):
            options = replace(options_of(each), confidence=WISH if ask and place % 2 == 0 else None)
            engine.expand(each, each.root, 4, options)
        run_until_idle(engine)
        return [
            (node.tokens, node.logprob, node.confidence and (node.confidence.sums, node.confidence.certainties))
            for node in trees[0].root.children
        ]

    plain, asked = grown(False, 0), grown(True, 0)
    assert [each[:2] for each in plain] == [each[:2] for each in asked]  # type: ignore[index]
    assert asked == grown(True, 3)


@pytest.fixture(scope="module")
def engine() -> bw.Engine:
    return bw.Engine(kv_memory=128 << 20, max_tokens=60)


def shape(result: bw.Result) -> list[object]:
    return [
        (node.lineage, node.tokens, node.confidence and (node.confidence.values, node.confidence.certainties))
        for node in walk(result.tree)
    ]


@pytest.mark.parametrize("strategy", ["majority", "beam"])
def test_a_search_tells_where_it_is_asked(engine: bw.Engine, strategy: str) -> None:
    plain = engine.solve("12+34*2=?", strategy, n=4)
    asked = engine.solve("12+34*2=?", strategy, n=4, confidence_top=5, confidence_window=8)
    assert [(node.lineage, node.tokens) for node in walk(plain.tree)] == [
        (node.lineage, node.tokens) for node in walk(asked.tree)
    ]
    assert all(each.confidence is None for each in plain.candidates)
    for each in asked.candidates:
        assert each.confidence is not None
        assert each.confidence.tokens == sum(len(node.tokens) for node in each.node.path)
        assert 0 < each.confidence.lowest <= each.confidence.bottom <= each.confidence.mean + 1e-9
    with bw.Engine(kv_memory=64 << 20, max_tokens=60, max_rows=3, speculate=True, threads=1) as narrow:
        other = narrow.solve("12+34*2=?", strategy, n=4, confidence_top=5, confidence_window=8)
    assert shape(asked) == shape(other)


def test_strategies_that_ask(engine: bw.Engine) -> None:
    result = engine.solve("12+34*2=?", "confidence", n=6, window=8)
    assert result.answer is not None
    assert result.why.startswith("weighted: weight ")
    assert result.score == pytest.approx(max(each.score or 0 for each in result.candidates if each.answer), abs=100)
    online = [engine.solve("12+34*2=?", "deepconf", n=8, warmup=4, wave=2, window=4, seed=3) for _ in range(2)]
    assert "threshold" in online[0].why
    assert shape(online[0]) == shape(online[1])
    assert online[0].votes == online[1].votes


@pytest.mark.parametrize(
    ("options", "message"),
    [({"confidence_top": 0}, "from 1 to 32"), ({"confidence_top": 33}, "from 1 to 32"),
     ({"confidence_top": True}, "from 1 to 32"), ({"confidence_window": 0}, "confidence_window=0: expected")],
)  # fmt: skip
def test_numbers_that_cannot_be(engine: bw.Engine, options: dict[str, int], message: str) -> None:
    with pytest.raises(bw.ConfigError, match=message):
        engine.solve("1+1=?", "greedy", **options)
