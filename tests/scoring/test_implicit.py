"""Implicit PRMs on random tiny checkpoints: the log-ratio of two models, step by step, as transformers has it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

import branchwise as bw
from branchwise.assets import asset_path
from branchwise.backend.cpu.backend import CpuBackend
from branchwise.engine.kv import KvCache
from branchwise.errors import ConfigError
from branchwise.pair.log_ratio import LogRatio
from branchwise.prm_format import Chat, Text, raw_reward
from branchwise.scoring.implicit import ImplicitJudge
from branchwise.scoring.likelihood import LikelihoodScorer
from branchwise.scoring.prm import load_likelihood
from branchwise.tree import walk
from branchwise.types import Node
from checkpoints import MemoryCheckpoint, random_checkpoint

QUESTION = "How many eggs per day? It has 16, and $3$ or (a) + 4."
STEPS = ["Step 1: 16 - 3 = 13 eggs.\n\n", "so 12 is 12:\n- one\n- two\n\n", "The answer is: 18"]
MODEL, REFERENCE = random_checkpoint("qwen2", seed=3), random_checkpoint("qwen2", seed=4)
UNTIED = random_checkpoint("llama3", seed=5)


def scorer(checkpoint: MemoryCheckpoint, judge: ImplicitJudge, batch_rows: int) -> LikelihoodScorer:
    made = load_likelihood(checkpoint, torch.float32, CpuBackend(), judge.layout, MODEL.tokenizer())
    cache = KvCache(made.model.config, 300, torch.float32, made.model.backend)
    return LikelihoodScorer(made, cache, batch_rows=batch_rows)


def judged(
    model: MemoryCheckpoint = MODEL, reference: MemoryCheckpoint = REFERENCE, steps: list[str] = STEPS, *,
    one_by_one: bool = False, batch_rows: int = 512, shed: bool = False, **options: object,
) -> list[Node]:  # fmt: skip
    """The nodes of a chain with their scores."""
    judge = ImplicitJudge("m", "r", **options)  # type: ignore[arg-type]
    parts = [scorer(each, judge, batch_rows) for each in (model, reference)]
    made = LogRatio(*parts, judge)
    nodes = [Node(0, None, 0, 0, 1)]
    for index, step in enumerate(steps, 1):
        nodes.append(Node(index, nodes[-1], 0, index, 1, text=step, finish="stop"))
    tree = made.open(
        nodes[0], QUESTION, branches=1, paths=1, steps=9, tokens=900, step_tokens=300, reuse=True
    )  # fmt: skip
    for node in nodes[1:] if one_by_one else nodes[-1:]:
        assert made.submit(tree, node)
        while not made.idle:
            made.poll()
            if shed:
                made.shed(tree, hard=True)
    made.close(tree)
    assert all(each.kv.free_blocks == each.kv.n_blocks for each in parts)
    return nodes[1:]


def values(nodes: list[Node]) -> list[float]:
    assert all(node.score is not None for node in nodes)
    return [raw_reward(node.score or 0.0) for node in nodes]


def by_transformers(checkpoint: MemoryCheckpoint) -> list[float]:
    """The log-probability of all steps up to each, from one pass over the whole text."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {key: value for key, value in checkpoint.config.items() if key != "architectures"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="eager").eval()
    missing, left = model.load_state_dict(checkpoint.tensors, strict=False)
    assert set(missing) <= {"lm_head.weight"}
    assert left == []
    tokenizer = MODEL.tokenizer()
    text = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.encode(text, special=True)
    ends = [len(ids)]
    for number, step in enumerate(STEPS, 1):
        own = step.strip().removeprefix("Step 1: ")
        ids += tokenizer.encode(f"Step {number}: {own}\n\n")
        ends.append(len(ids))
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    found = [logprobs[at - 1, ids[at]].item() for at in range(ends[0], len(ids))]
    return [math.fsum(found[: end - ends[0]]) for end in ends[1:]]


def test_values_are_those_of_transformers():
    for model, reference in ((MODEL, REFERENCE), (UNTIED, MODEL)):
        nodes = judged(model, reference)
        ours, theirs = by_transformers(model), by_transformers(reference)
        expected = [0.001 * (m - r) for m, r in zip(ours, theirs, strict=True)]
        assert values(nodes) == pytest.approx(expected, abs=1e-5)
        assert len({round(each, 4) for each in expected}) == len(STEPS)
        for node, own, other in zip(nodes, ours, theirs, strict=True):
            assert node.scores_by == {
                "model": pytest.approx(own, rel=1e-5),
                "reference": pytest.approx(other, rel=1e-5),
            }


def test_the_value_of_a_branch_is_the_sum_of_those_of_its_steps():
    whole, single = values(judged(beta=0.02)), values(judged(beta=0.02, value="step"))
    assert whole == pytest.approx([math.fsum(single[: end + 1]) for end in range(len(single))], abs=1e-12)
    assert len({round(each, 6) for each in single}) == len(STEPS)


def test_a_model_against_itself_is_worth_exactly_nothing():
    for value in ("accumulated", "step"):
        nodes = judged(MODEL, random_checkpoint("qwen2", seed=3), value=value)
        assert [node.score for node in nodes] == [0.5] * len(STEPS)
        assert values(nodes) == [0.0] * len(STEPS)


def test_one_by_one_equals_at_once():
    """Bit for bit, whatever is fed together, and when KV had to make room meanwhile."""
    at_once = [node.score for node in judged()]
    for options in (
        {"one_by_one": True},
        {"batch_rows": 3},
        {"one_by_one": True, "shed": True},
        {"batch_rows": 7, "shed": True},
    ):
        assert [node.score for node in judged(**options)] == at_once, options  # type: ignore[arg-type]
    alone = [judged(steps=STEPS[: index + 1])[-1].score for index in range(len(STEPS))]
    assert alone == at_once


def test_each_step_is_read_once_by_either_model():
    nodes = judged(one_by_one=True)
    tokens = [
        len(MODEL.tokenizer().encode(f"Step {n}: {s.strip().removeprefix('Step 1: ')}\n\n"))
        for n, s in enumerate(STEPS, 1)
    ]
    assert [node.cost.prm_tokens for node in nodes] == [2 * each for each in tokens]


# --- in an engine --------------------------------------------------------------------------------------------------

PLAIN = Text("{problem}\n\n", "{step}\n\n", pieces=True)


def test_a_search_is_judged_by_two_models():
    """The bundled policies, which lack a chat template: the larger one against the smaller one."""
    judge = ImplicitJudge(asset_path("policy-large"), asset_path("policy-small"), beta=0.5, layout=PLAIN)
    with bw.Engine(asset_path("policy-small"), judge=judge, kv_memory=128 << 20, threads=1, instruction="") as engine:
        result, again = (engine.solve("12+3*4-5+60=?", "beam", n=8) for _ in range(2))
        assert [n.score for n in walk(result.tree)] == [n.score for n in walk(again.tree)]
        best = next(each for each in result.candidates if each.text == result.text)
        steps = [step.text for step in best.node.path]
        assert engine.score_steps([("12+3*4-5+60=?", steps)])[0] == best.scores
        assert result.cost.prm_tokens > 0
        assert result.cost.prm_flops > 0
        assert result.answer is not None


def test_models_of_different_words_are_refused(tmp_path: Path):
    small = asset_path("policy-small")
    changed = tmp_path / "other"
    changed.mkdir()
    for file in Path(small).iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    words = (changed / "tokenizer.json").read_text()
    (changed / "tokenizer.json").write_text(words.replace('"3": ', '"€": ', 1))
    assert words != (changed / "tokenizer.json").read_text()
    with pytest.raises(ConfigError, match=r"its reference .*other have different vocabularies: name"):
        bw.Engine(small, judge=ImplicitJudge(small, changed, layout=PLAIN), kv_memory=64 << 20)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": ""}, "model='': expected a folder, a .gguf file or a hub id"),
        ({"reference": None}, "reference=None: expected a folder"),
        ({"beta": 0}, "beta=0: expected more than 0 to 1000"),
        ({"beta": "0.1"}, "beta='0.1'"),
        ({"value": "single"}, "value='single': expected one of accumulated, step"),
        ({"layout": "chat"}, "layout='chat': expected a Text, Chat or Turns"),
        ({"layout": Chat("{step}\n\n", last="{step}")}, "expected no `last` or `checks`, as steps are read as"),
        ({"layout": Chat("{step}\n\n", checks=("{step}",))}, "expected no `last` or `checks`, as steps are read as"),
    ],
)
def test_what_cannot_be(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        ImplicitJudge(**{"model": "m", "reference": "r", **options})  # type: ignore[arg-type]


def test_other_layouts_are_taken():
    assert values(judged(layout=Chat("{step}\n\n"))) != values(judged())
