"""Which models are taken for PRMs, what their heads make of a text, and steps that a PRM has no room for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from branchwise.assemble import load_models
from branchwise.backend.cpu.backend import CpuBackend
from branchwise.config import EngineConfig
from branchwise.engine.kv import KvCache
from branchwise.errors import CheckpointError, ConfigError, InputError, OutOfMemory, TokenizerError
from branchwise.scoring.formats import PRM_FORMATS, detect_format
from branchwise.scoring.prm import Prm, load_prm
from branchwise.scoring.scorer import Scorer
from branchwise.types import Node
from branchwise.weights import open_checkpoint
from checkpoints import MemoryCheckpoint, character_tokenizer, random_checkpoint
from model_tools import cpu_prm
from weights.samples import tiny_model, write_gguf

LABELS = ["Qwen2ForTokenClassification"]
QUESTION = "What is 12+3*4-5?"


def changed(checkpoint: MemoryCheckpoint, drop: str = "", rename: tuple[str, str] = ("", "")) -> MemoryCheckpoint:
    """Without the tensors whose name begins with `drop`, the others renamed."""
    kept = {name: tensor for name, tensor in checkpoint.tensors.items() if not (drop and name.startswith(drop))}
    old, new = rename
    checkpoint.tensors = {name.replace(old, new) if old else name: tensor for name, tensor in kept.items()}
    return checkpoint


@pytest.mark.parametrize(
    "checkpoint",
    [
        random_checkpoint("qwen2"),
        random_checkpoint("llama", architectures=["LlamaForCausalLM"]),
        changed(random_checkpoint("qwen2", heads="mlp2", architectures=["Qwen2ForProcessRewardModel"]), drop="score"),
        random_checkpoint("qwen2", architectures=["Qwen2ForTokenClassification"]),
        random_checkpoint("qwen2", heads="labels", architectures=["Qwen2ForSequenceClassification"]),
        random_checkpoint("qwen2", heads="labels"),
        random_checkpoint("qwen2", architectures="LlamaForCausalLM"),
        random_checkpoint("qwen2", architectures=[1, None]),
    ],
    ids=[
        "no class",
        "causal",
        "head lost",
        "classifier without head",
        "outcome",
        "head of no class",
        "text",
        "numbers",
    ],
)
def test_auto_takes_no_model_without_evidence(checkpoint: MemoryCheckpoint) -> None:
    """The vocabulary knows `<extra_0>` and `ки`, and there is a chat template: none of that makes a judge."""
    with pytest.raises(ConfigError) as raised:
        cpu_prm(checkpoint, torch.float32)
    assert all(name in str(raised.value) for name in [*PRM_FORMATS, "--prm-format"])


def test_heads_of_another_shape_are_refused() -> None:
    outcome = random_checkpoint("qwen2", heads="mlp2")
    outcome.tensors["score.2.weight"] = torch.zeros(3, 64)
    with pytest.raises(CheckpointError, match=r"score.2.weight has shape \(3, 64\).*has 2 rows there: choose"):
        cpu_prm(outcome, torch.float32)
    wide = random_checkpoint("qwen2", heads="value")
    wide.tensors["v_head.summary.weight"] = torch.zeros(3, 64)
    with pytest.raises(CheckpointError, match=r"v_head.summary.weight has shape \(3, 64\).*has 1 row there"):
        cpu_prm(wide, torch.float32)


def test_a_gguf_file_holds_no_reward_head(tmp_path: Path) -> None:
    """So it shows no sign of a PRM, whatever it was converted from and whatever words it has."""
    path = write_gguf(tmp_path / "m.gguf", "qwen2", tiny_model("qwen2"))
    with pytest.raises(ConfigError, match=r"m\.gguf \(of class Qwen2ForCausalLM\) has no reward head"):
        detect_format(open_checkpoint(path), character_tokenizer())


def test_a_format_chosen_by_name_says_what_nobody_knows() -> None:
    chosen = cpu_prm(random_checkpoint("llama3"), torch.float32, "rlhflow")
    assert chosen.note is not None
    assert "nothing in memory:llama says that it was trained" in chosen.note
    assert cpu_prm(random_checkpoint("qwen2", heads="mlp2"), torch.float32).note is None
    assumed = cpu_prm(random_checkpoint("qwen2", heads="labels", architectures=LABELS), torch.float32)
    assert assumed.note is not None
    assert "trl-lines" in assumed.note


@pytest.mark.parametrize("name", ["qwen-prm", "skywork", "trl", "trl-lines"])
def test_a_format_with_a_head_needs_it(name: str) -> None:
    with pytest.raises((ConfigError, CheckpointError), match=r"(needs|has no) (score|v_head)"):
        cpu_prm(random_checkpoint("qwen2"), torch.float32, name)


def test_the_engine_keeps_the_notes(bundled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models = load_models(bundled, bundled, EngineConfig(prm_format="rlhflow", kv_memory=64 << 20))
    assert [note[:20] for note in models.resolved.notes] == ["prm_format=rlhflow: "]
    with pytest.raises(ConfigError, match="has no reward head"):
        load_models(bundled, bundled, EngineConfig(kv_memory=64 << 20))


@pytest.fixture
def bundled() -> str:
    from branchwise.assets import asset_path

    return str(asset_path("policy-small"))


# --- token classification ----------------------------------------------------------------------------------------


def classifier(labels: int, bias: bool, tied: bool = True) -> tuple[MemoryCheckpoint, Any]:
    """A random model of transformers, and the same as a checkpoint."""
    from transformers import Qwen2Config, Qwen2ForTokenClassification

    made = random_checkpoint("qwen2", seed=3, heads="labels", architectures=LABELS, num_labels=labels)
    config = Qwen2Config(**{name: value for name, value in made.config.items() if name != "architectures"})
    config.num_labels = labels
    torch.manual_seed(5)
    model = Qwen2ForTokenClassification(config).eval()
    with torch.no_grad():
        model.score.bias.uniform_(-1, 1) if bias else model.score.bias.zero_()
    made.tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if not bias:
        del made.tensors["score.bias"]
    return made, model


@pytest.mark.parametrize("layer", ["score", "classifier"])
@pytest.mark.parametrize(("labels", "bias"), [(2, True), (2, False), (1, True)])
def test_token_classification_is_that_of_transformers(layer: str, labels: int, bias: bool) -> None:
    """P(label 1) at the end of every separator, as transformers gives it; one label: its sigmoid."""
    checkpoint, model = classifier(labels, bias)
    prm = cpu_prm(changed(checkpoint, rename=("score.", f"{layer}.")), torch.float32)
    steps = ["12+0=12", "3*4=12\nso it is 24", "24-5=19"]
    ids, ends = prm.format.prompt(QUESTION), []
    for index, step in enumerate(steps):
        ids = ids + prm.format.step(index, f"{step}\n\n")
        ends.append(len(ids) - 1)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, ends]
    expected = logits.softmax(-1)[:, 1] if labels == 2 else logits.sigmoid()[:, 0]
    assert scores_of(prm, steps) == pytest.approx(expected.tolist(), abs=1e-5)
    assert len(set(expected.tolist())) == 3


@pytest.mark.parametrize("prefix", ["model.", "", "backbone."])
def test_a_token_classifier_in_a_folder(tmp_path: Path, prefix: str) -> None:
    """Whatever stands before the names of its trunk."""
    checkpoint, _ = classifier(2, True)
    renamed = {prefix + name[6:] if name.startswith("model.") else name: t for name, t in checkpoint.tensors.items()}
    save_file(renamed, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(checkpoint.config))
    (tmp_path / "tokenizer.json").write_text(character_tokenizer()._backend.to_str())
    prm = load_prm(open_checkpoint(tmp_path), torch.float32, CpuBackend())
    assert scores_of(prm, ["1+1=2"]) == scores_of(cpu_prm(checkpoint, torch.float32), ["1+1=2"])


def test_labels_that_are_named() -> None:
    checkpoint, _ = classifier(2, True)
    plain = scores_of(cpu_prm(checkpoint, torch.float32), ["1"])[0]
    checkpoint.config["id2label"] = {"0": "+", "1": "-"}
    assert scores_of(cpu_prm(checkpoint, torch.float32), ["1"])[0] == pytest.approx(1 - plain, abs=1e-6)
    three = random_checkpoint("qwen2", heads="labels", architectures=LABELS)
    three.tensors["score.weight"] = torch.zeros(3, 64)
    with pytest.raises(CheckpointError, match=r"score.weight of shape \(3, 64\).*one or two rows"):
        cpu_prm(three, torch.float32)


# --- steps without room --------------------------------------------------------------------------------------------


def make_scorer(prm: Prm, blocks: int = 400) -> Scorer:
    return Scorer(prm, KvCache(prm.model.config, blocks, prm.model.dtype, prm.model.backend))


def chain(texts: list[str]) -> list[Node]:
    nodes = [Node(0, None, 0, 0, 1)]
    for text in texts:
        parent = nodes[-1]
        nodes.append(Node(len(nodes), parent, 0, parent.depth + 1, 1, text=f"{text}\n\n", finish="stop"))
    return nodes


def scores_of(prm: Prm, texts: list[str]) -> list[float | None]:
    nodes, scorer = chain(texts), make_scorer(prm)
    tree = scorer.open(nodes[0], QUESTION, branches=1, paths=1, steps=len(texts), tokens=800, step_tokens=400)
    assert tree is not None
    scorer.submit(tree, nodes[-1])
    while not scorer.idle:
        scorer.poll()
    return [node.score for node in nodes[1:]]


def test_a_step_beyond_the_context_ends_its_branch_alone() -> None:
    prm = cpu_prm(random_checkpoint("qwen2", heads="mlp2", max_position_embeddings=256), torch.float32)
    scorer = make_scorer(prm)
    nodes = chain(["1+1=2", "x" * 300, "after it"])
    sibling = Node(9, nodes[1], 1, 2, 1, text="2+2=4\n\n", finish="stop")
    tree = scorer.open(nodes[0], "1+1=?", branches=2, paths=2, steps=9, tokens=100, step_tokens=50)
    assert tree is not None
    assert [scorer.submit(tree, node) for node in (nodes[1], nodes[2], sibling)] == [True, False, True]
    assert (nodes[2].finish, nodes[2].cut, nodes[2].score) == ("length", "prm_context", None)
    while not scorer.idle:
        scorer.poll()
    assert (nodes[1].score is not None, sibling.score is not None) == (True, True)
    assert not scorer.submit(tree, nodes[3]), "nothing below it has a score, either"
    scorer.close(tree)
    assert scorer.kv.free_blocks == scorer.kv.n_blocks


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_context_without_room_for_a_step_is_an_error_of_that_problem(room: int) -> None:
    made = random_checkpoint("qwen2", heads="mlp2")
    prompt = len(cpu_prm(made, torch.float32).format.prompt("1+1=?"))
    made.config["max_position_embeddings"] = prompt + room
    scorer = make_scorer(cpu_prm(made, torch.float32))
    wanted = {"branches": 1, "paths": 1, "steps": 9, "tokens": 100, "step_tokens": 50}
    if room < 2:  # a marker and something before it
        with pytest.raises(InputError, match=rf"{prompt} tokens .* context of {prompt + room} holds no step"):
            scorer.open(Node(0, None, 0, 0, 1), "1+1=?", **wanted)
    else:
        assert scorer.open(Node(0, None, 0, 0, 1), "1+1=?", **wanted) is not None
    with pytest.raises(InputError, match="shorten"):
        scorer.room("1" * 10**7)


def test_a_path_deeper_than_the_interpreter_nests() -> None:
    """Scored at its end only."""
    prm = cpu_prm(random_checkpoint("qwen2", heads="mlp2", max_position_embeddings=6000), torch.float32)
    scorer, nodes = make_scorer(prm, blocks=1700), chain(["1"] * 1500)
    tree = scorer.open(nodes[0], "1+1=?", branches=1, paths=1, steps=1500, tokens=1500, step_tokens=2)
    assert tree is not None
    assert scorer.submit(tree, nodes[-1])
    assert scorer.pending > 3000


def test_room_does_not_shrink_with_steps_that_cannot_all_come() -> None:
    """A thousand steps are expected to take no more than fits into the context, and leave room for a solution."""
    prm = cpu_prm(random_checkpoint("qwen2", heads="mlp2", max_position_embeddings=512), torch.float32)
    scorer = make_scorer(prm, blocks=150)
    assert scorer.room("1+1=?") > 300
    tree = scorer.open(Node(0, None, 0, 0, 1), "1+1=?", branches=2, paths=2, steps=10**6, tokens=64, step_tokens=64)
    assert tree is not None
    assert tree.lease.prompt + tree.lease.longest < 150


def test_scores_that_are_known_outlast_a_pass_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    prm = cpu_prm(random_checkpoint("qwen2", heads="mlp2"), torch.float32)
    scorer, nodes = make_scorer(prm), chain(["1+1=2"])
    tree = scorer.open(nodes[0], QUESTION, branches=2, paths=2, steps=9, tokens=100, step_tokens=50)
    assert tree is not None
    scorer.submit(tree, nodes[1])
    while not scorer.idle:
        scorer.poll()
    twin = Node(7, nodes[0], 1, 1, 1, text=nodes[1].text, finish="stop")
    other = Node(8, nodes[0], 2, 1, 1, text="1+1=3\n\n", finish="stop")
    assert [scorer.submit(tree, node) for node in (twin, other)] == [True, True]
    with monkeypatch.context() as patched:
        patched.setattr(scorer.runner, "forward", _no_memory)
        with pytest.raises(OutOfMemory):
            scorer.poll()
    assert set(scorer.poll()) == {twin, other}


def _no_memory(feeds: object) -> None:
    raise OutOfMemory("no room")


# --- tokenizers that do not fit ---------------------------------------------------------------------------------------


def test_a_tokenizer_larger_than_the_model_is_refused() -> None:
    words = character_tokenizer().vocab_size
    small = random_checkpoint("qwen2", heads="mlp2", vocab_size=words - 7)
    with pytest.raises(TokenizerError, match=rf"tokenizer has ids below {words} .* the model has {words - 7} rows"):
        cpu_prm(small, torch.float32)
