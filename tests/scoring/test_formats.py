"""Every format on a random checkpoint with the tensor names of the real one, against its own recipe in transformers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from branchwise.engine.kv import KvCache
from branchwise.prm_format import raw_reward
from branchwise.scoring.formats import PRM_FORMATS, detect_format
from branchwise.scoring.prm import Prm
from branchwise.scoring.scorer import Scorer
from branchwise.types import Node
from checkpoints import MemoryCheckpoint
from model_tools import cpu_prm
from scoring.recipes import CASES, QUESTION, STEPS, Ids


def test_every_format_has_its_recipe() -> None:
    assert set(CASES) == set(PRM_FORMATS)


@pytest.fixture(scope="module", params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def prm(name: str) -> Prm:
    return cpu_prm(CASES[name].checkpoint(), torch.float32, name)


def test_formats_are_told_apart(name: str) -> None:
    """By their heads and classes; those that have the same as another, or none, are told by name."""
    made = CASES[name].checkpoint()
    if CASES[name].found:
        assert detect_format(made, made.tokenizer()) == name
        assert cpu_prm(made, torch.float32).format == cpu_prm(made, torch.float32, name).format


def test_ids_are_those_of_the_recipe(name: str, prm: Prm) -> None:
    ids, case = prm.format.prompt(QUESTION), CASES[name]
    recipes = zip(STEPS, case.checks(prm.tokenizer), case.recipe(prm.tokenizer), strict=True)
    for index, (step, checks, recipe) in enumerate(recipes):
        assert [ids + each for each in prm.format.readings(index, f"{step}\n\n")] == [*checks, recipe]
        ids += prm.format.step(index, f"{step}\n\n")


def test_scores_are_those_of_transformers(name: str, prm: Prm) -> None:
    case = CASES[name]
    checkpoint = case.checkpoint()
    score = case.score(prm.tokenizer)
    expected = [score(hidden(checkpoint, ids), checkpoint.tensors) for ids in case.recipe(prm.tokenizer)]
    checks = [ids for each in case.checks(prm.tokenizer) for ids in each]
    assert all(score(hidden(checkpoint, ids), checkpoint.tensors) > 0.5 for ids in checks)
    assert scores_of(prm) == pytest.approx(expected, abs=1e-5)
    assert len({round(each, 4) for each in expected}) == len(STEPS)


def test_one_by_one_equals_at_once(name: str, prm: Prm) -> None:
    """Bit for bit, whatever is fed together, and however often it is begun anew."""
    at_once = scores_of(prm)
    assert scores_of(prm, one_by_one=True) == at_once
    assert scores_of(prm, batch_rows=3) == at_once
    alone = [scores_of(prm, steps=STEPS[: index + 1])[-1] for index in range(len(STEPS))]
    assert alone == at_once


def hidden(checkpoint: MemoryCheckpoint, ids: Ids) -> Tensor:
    """The state after the last of the ids, by transformers. [hidden]"""
    from transformers import AutoConfig, AutoModel

    config = {key: value for key, value in checkpoint.config.items() if key != "architectures"}
    model = AutoModel.from_config(AutoConfig.for_model(**config), attn_implementation="eager").eval()
    trunk = {key[6:]: value for key, value in checkpoint.tensors.items() if key.startswith("model.")}
    model.load_state_dict(trunk)
    with torch.no_grad():
        states: Tensor = model(torch.tensor([ids])).last_hidden_state
    return states[0, -1]


def scores_of(
    prm: Prm, steps: list[str] = STEPS, one_by_one: bool = False, batch_rows: int = 512
) -> list[float | None]:
    scorer = Scorer(prm, KvCache(prm.model.config, 200, prm.model.dtype, prm.model.backend), batch_rows=batch_rows)
    nodes = [Node(0, None, 0, 0, 1)]
    for index, step in enumerate(steps, 1):
        nodes.append(Node(index, nodes[-1], 0, index, 1, text=f"{step}\n\n", finish="stop"))
    tree = scorer.open(nodes[0], QUESTION, branches=1, paths=1, steps=9, tokens=900, step_tokens=300)
    assert tree is not None
    for node in nodes[1:] if one_by_one else nodes[-1:]:
        assert scorer.submit(tree, node)
        while not scorer.idle:
            scorer.poll()
            scorer.kv.tree.check()
    scorer.close(tree)
    assert scorer.kv.free_blocks == scorer.kv.n_blocks
    return [node.score for node in nodes[1:]]


# --- numbers without bounds ------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", [math.inf, -math.inf, math.nan])
def test_a_reward_that_is_no_number_gives_no_score(reward: float) -> None:
    made = CASES["pqm"].checkpoint()
    made.tensors["v_head.summary.bias"].fill_(reward)
    assert all(score is not None and math.isnan(score) for score in scores_of(cpu_prm(made, torch.float32)))


@pytest.mark.parametrize("reward", [-300.0, -30.0, -5.0, 0.0, 1.5, 23.0, 24.0, 300.0])
def test_a_wide_head_keeps_large_rewards_apart(reward: float) -> None:
    made = CASES["pqm"].checkpoint()
    made.tensors["v_head.summary.weight"].zero_()
    made.tensors["v_head.summary.bias"].fill_(reward)
    (score,) = {*scores_of(cpu_prm(made, torch.float32))}
    assert score is not None
    assert 0 <= score <= 1
    if abs(reward) <= 30:
        assert raw_reward(score) == pytest.approx(reward, abs=1e-3)
    else:
        assert math.isinf(raw_reward(score)) or raw_reward(score) == pytest.approx(reward)


# --- tails -----------------------------------------------------------------------------------------------------------


def test_outcome_models_are_those_of_transformers() -> None:
    """The class itself, its last token and its one label."""
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    checkpoint = CASES["outcome"].checkpoint()
    prm = cpu_prm(checkpoint, torch.float32)
    config = Qwen3Config(**{key: value for key, value in checkpoint.config.items() if key != "architectures"})
    config.num_labels = 1
    model = Qwen3ForSequenceClassification(config).eval()
    wanted = set(model.state_dict())
    model.load_state_dict({name: tensor for name, tensor in checkpoint.tensors.items() if name in wanted})
    with torch.no_grad():
        logits = [model(torch.tensor([ids])).logits.item() for ids in CASES["outcome"].recipe(prm.tokenizer)]
    scores = scores_of(prm)
    assert [raw_reward(score) for score in scores if score is not None] == pytest.approx(logits, abs=1e-4)
    assert prm.note is not None
    assert "under which system message" in prm.note


@pytest.mark.parametrize("kind", ["universal", "outcome", "reasonflux-orm", "pathfinder"])
def test_a_tail_is_no_part_of_the_path(kind: str) -> None:
    """A tree of steps: what is fed is counted, siblings share their parent, and the KV holds steps alone."""
    prm = cpu_prm(CASES[kind].checkpoint(), torch.float32, kind)
    scorer = Scorer(prm, KvCache(prm.model.config, 200, prm.model.dtype, prm.model.backend))
    root = Node(0, None, 0, 0, 1)
    first = Node(1, root, 0, 1, 1, text="1+1=2\n\n", finish="stop")
    below = [Node(2 + i, first, i, 2, 1, text=text, finish="stop") for i, text in enumerate(["so 2\n\n", "12\n\n"])]
    tree = scorer.open(root, QUESTION, branches=2, paths=2, steps=9, tokens=90, step_tokens=30)
    assert tree is not None
    fed = len(prm.format.prompt(QUESTION))
    for wave in ([first], below):
        for node in wave:
            assert scorer.submit(tree, node)
        while not scorer.idle:
            scorer.poll()
            scorer.kv.tree.check()
    assert scorer.runner.stats.rows == fed + sum(node.cost.prm_tokens for node in (first, *below))
    steps = [first.text, below[0].text]
    written = prm.format.step(0, steps[0])
    twin = tree.twins[first]
    assert twin.handle is not None
    assert scorer.kv.tree.length(twin.handle) == len(written)
    assert below[0].score != below[1].score
    assert [first.score, below[0].score] == scores_of(prm, [text.strip() for text in steps])
    scorer.close(tree)
    assert scorer.kv.free_blocks == scorer.kv.n_blocks


def test_a_tail_needs_room_in_the_context() -> None:
    made = CASES["outcome"].checkpoint()
    length = len(CASES["outcome"].recipe(made.tokenizer())[0])
    for room, fits in ((length, True), (length - 1, False)):
        made.config["max_position_embeddings"] = room
        prm = cpu_prm(made, torch.float32)
        scorer = Scorer(prm, KvCache(prm.model.config, 200, prm.model.dtype, prm.model.backend))
        root = Node(0, None, 0, 0, 1)
        node = Node(1, root, 0, 1, 1, text=STEPS[0], finish="eos")
        tree = scorer.open(root, QUESTION, branches=1, paths=1, steps=9, tokens=90, step_tokens=30)
        assert tree is not None
        assert scorer.submit(tree, node) == fits
