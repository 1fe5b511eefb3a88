"""Scoring new tokens only gives the same bits as scoring everything again: four formats, any order, any batch."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from branchwise.engine.kv import KvCache
from branchwise.errors import CheckpointError, ConfigError, InputError, StaleNodeError, TokenizerError
from branchwise.scoring.formats import detect_format
from branchwise.scoring.prm import Prm
from branchwise.scoring.scorer import PrmTree, Scorer
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Node
from checkpoints import MemoryCheckpoint, character_tokenizer, random_checkpoint
from model_tools import cpu_prm

PROBLEM = "What is 12+3*4-5?"
FORMATS = {
    "math-shepherd": ("mistral", ""),
    "rlhflow": ("llama3", ""),
    "qwen-prm": ("qwen2", "mlp2"),
    "skywork": ("qwen2", "value"),
    "trl": ("qwen2", "labels"),
}


def checkpoint_for(name: str) -> MemoryCheckpoint:
    family, heads = FORMATS[name]
    overrides = {"tie_word_embeddings": False} if heads == "value" else {}
    if heads == "labels":
        overrides["architectures"] = ["Qwen2ForTokenClassification"]
    return with_tag(random_checkpoint(family, seed=21, heads=heads, **overrides), name)


def load(name: str, dtype: torch.dtype = torch.float32) -> Prm:
    """The PRM of a format; those without a head must be told which they are."""
    return cpu_prm(checkpoint_for(name), dtype, "auto" if FORMATS[name][1] else name)


def with_tag(checkpoint: MemoryCheckpoint, name: str) -> MemoryCheckpoint:
    """Math-Shepherd's tokenizer has one token for the tag."""
    if name == "math-shepherd":
        checkpoint._tokenizer = tag_tokenizer()
    return checkpoint


def tag_tokenizer() -> Tokenizer:
    vocabulary = {word: index for index, word in enumerate(["<s>", "ки", *map(chr, range(32, 127)), "\n"])}
    document = {
        "version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None, "decoder": {"type": "Fuse"},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "ки|[\\s\\S]"}, "behavior": "Isolated",
                          "invert": False},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": " "},
    }  # fmt: skip
    return Tokenizer.from_json(json.dumps(document), {"bos_token": "<s>", "add_bos_token": True})


def make_scorer(prm: Prm, batch_rows: int = 512) -> Scorer:
    return Scorer(prm, KvCache(prm.model.config, 1000, prm.model.dtype, prm.model.backend), batch_rows=batch_rows)


def make_tree(seed: int = 0) -> list[Node]:
    """A random tree of steps, parents first."""
    rng = random.Random(seed)
    root = Node(0, None, 0, 0, 1)
    nodes = [root]
    for _ in range(14):
        parent = rng.choice(nodes)
        text = "".join(rng.choice("0123456789+-*= ab\n") for _ in range(rng.randint(1, 70))) + "x\n\n"
        node = Node(len(nodes), parent, len(parent.children), parent.depth + 1, 1, text=text, finish="stop")
        parent.children.append(node)
        nodes.append(node)
    return nodes


def score_in(scorer: Scorer, tree: PrmTree, waves: list[list[Node]]) -> dict[int, float]:
    for wave in waves:
        for node in wave:
            scorer.submit(tree, node)
        while not scorer.idle:
            scorer.poll()
    return {node.id: node.score for wave in waves for node in wave if node.score is not None}


def open_prm(scorer: Scorer, nodes: list[Node]) -> PrmTree:
    for node in nodes:
        node.score = None
    tree = scorer.open(nodes[0], PROBLEM, branches=16, paths=16, steps=20, tokens=800, step_tokens=800)
    assert tree is not None
    return tree


def full_scores(prm: Prm, node: Node) -> list[float]:
    """Every step of one path by textbook: one flat sequence without steps, one pass."""
    ids = prm.format.prompt(PROBLEM)
    ends = []
    for index, step in enumerate(node.path):
        ids = ids + prm.format.step(index, step.text)
        ends.append(len(ids) - 1)
    kv = KvCache(prm.model.config, len(ids) // 32 + 2, prm.model.dtype, prm.model.backend)
    handle = kv.tree.add_root()
    kv.tree.append(handle, len(ids))
    plan = kv.planner.build(np.array([handle], np.int64), np.array([len(ids)], np.int32))
    prm.model.rope.cover(len(ids))
    hidden = prm.model.forward(torch.tensor(ids), plan, kv.pool)
    return prm.scores(hidden[torch.tensor(ends)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", FORMATS)
def test_incremental_equals_full(name: str, dtype: torch.dtype) -> None:
    prm = load(name, dtype)
    nodes = make_tree()
    one_by_one, by_level, rest = make_scorer(prm), make_scorer(prm, batch_rows=7), make_scorer(prm)
    expected = score_in(one_by_one, open_prm(one_by_one, nodes), [[node] for node in nodes[1:]])
    depths = sorted({node.depth for node in nodes[1:]})
    levels = [[node for node in nodes if node.depth == depth] for depth in depths]
    assert score_in(by_level, open_prm(by_level, nodes), levels) == expected
    shuffled = nodes[1:]
    random.Random(4).shuffle(shuffled)
    assert score_in(rest, open_prm(rest, nodes), [shuffled]) == expected
    assert len(set(expected.values())) > 10
    assert all(0.0 <= score <= 1.0 for score in expected.values())
    for node in nodes[1:]:
        full = make_scorer(prm)  # the whole trajectory at once, from nothing
        scores = score_in(full, open_prm(full, nodes), [[node]])
        assert scores == {node.id: expected[node.id]}
        assert all(step.score == expected[step.id] for step in node.path)
        # A flat sequence sums attention in other groups of keys: equal up to rounding.
        flat, tolerance = full_scores(prm, node), 1e-5 if dtype == torch.float32 else 2e-2
        assert flat == pytest.approx([expected[step.id] for step in node.path], abs=tolerance)


def test_steps_that_say_the_same_are_scored_once() -> None:
    """Two roots' children with one text share a path, below them too; each node gets its score, the first one pays."""
    prm = cpu_prm(checkpoint_for("qwen-prm"), torch.float32)
    scorer = make_scorer(prm)
    root = Node(0, None, 0, 0, 1)
    twins = [Node(i, root, i, 1, 1, text="1+1=2\n\n", finish="stop") for i in (1, 2)]
    below = [Node(i + 3, parent, 0, 2, 1, text="2*3=6\n\n", finish="stop") for i, parent in enumerate(twins)]
    late = Node(5, root, 2, 1, 1, text="1+1=2\n\n", finish="stop")
    other = Node(6, root, 3, 1, 1, text="1+1=3\n\n", finish="stop")
    tree = open_prm(scorer, [root, *twins, *below, late, other])
    score_in(scorer, tree, [[*twins, *below, other]])
    assert twins[0].score == twins[1].score != other.score
    assert below[0].score == below[1].score is not None
    assert [bool(node.cost.prm_tokens) for node in (*twins, *below, other)] == [True, False, True, False, True]
    assert scorer.submit(tree, late)
    assert not scorer.idle
    assert scorer.poll(least=100) == [late]
    assert (late.score, late.cost.prm_tokens) == (twins[0].score, 0)
    scorer.release(tree, twins[0])  # the others still hold the path
    child = Node(7, late, 0, 2, 1, text="then\n\n", finish="stop")
    assert score_in(scorer, tree, [[child]])[7] == pytest.approx(full_scores(prm, child)[-1], abs=1e-5)
    scorer.close(tree)
    assert scorer.kv.free_blocks == scorer.kv.n_blocks


@pytest.mark.parametrize("name", [name for name, (_, heads) in FORMATS.items() if heads])
def test_formats_are_told_apart_by_their_heads(name: str) -> None:
    assert detect_format(checkpoint_for(name), checkpoint_for(name).tokenizer()) == name


def test_token_ids_of_the_formats() -> None:
    decode = character_tokenizer().decode

    def text(name: str) -> str:
        step_format = load(name).format
        ids = step_format.prompt("Q?") + step_format.step(0, "one\n\n") + step_format.step(1, "two\nmore\n\n")
        return (tag_tokenizer().decode if name == "math-shepherd" else decode)(ids)

    assert text("math-shepherd") == "<s>Q? one ки\ntwo\nmore ки"
    assert text("skywork") == "Q?\none\ntwo more\n"
    assert text("trl") == "Q?one\n\ntwo\nmore\n\n"
    # Special tokens have no text: what is left of ChatML are roles and newlines.
    assert text("rlhflow") == "user\nQ? one\nassistant\n+\nuser\ntwo\nmore\nassistant\n"
    assert text("qwen-prm").endswith("user\nQ?\nassistant\nonetwo\nmore")


def test_memory_comes_back_and_blank_steps_have_no_score() -> None:
    prm = cpu_prm(checkpoint_for("qwen-prm"), torch.float32)
    scorer, nodes = make_scorer(prm), make_tree()
    tree = open_prm(scorer, nodes)
    score_in(scorer, tree, [nodes[1:]])
    for node in nodes[5:]:
        scorer.release(tree, node)
        scorer.kv.tree.check()
    blank = Node(99, nodes[0], 9, 1, 1, text="  \n")
    assert not scorer.submit(tree, blank)
    scorer.close(tree)
    assert scorer.kv.free_blocks == scorer.kv.n_blocks
    with pytest.raises(StaleNodeError, match="closed"):
        scorer.submit(tree, nodes[1])


def test_bad_prms_are_refused() -> None:
    plain = random_checkpoint("qwen2", heads="mlp2")
    plain._tokenizer = tag_tokenizer()
    with pytest.raises(TokenizerError, match="<extra_0>"):
        cpu_prm(plain, torch.float32)
    with pytest.raises(ConfigError, match="expected auto or one of"):
        cpu_prm(checkpoint_for("rlhflow"), torch.float32, "nonsense")
    with pytest.raises(ConfigError, match="needs score"):
        cpu_prm(checkpoint_for("rlhflow"), torch.float32, "qwen-prm")
    with pytest.raises(TokenizerError, match="as one token"):
        cpu_prm(checkpoint_for("rlhflow"), torch.float32, "math-shepherd")
    damaged = checkpoint_for("skywork")
    del damaged.tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(CheckpointError, match=r"1 tensors are missing: model.layers.1.mlp.up_proj.weight"):
        cpu_prm(damaged, torch.float32)


def test_a_problem_longer_than_the_context_is_refused() -> None:
    scorer = make_scorer(cpu_prm(checkpoint_for("skywork"), torch.float32))
    with pytest.raises(InputError, match=r"whose context of 2048 holds no step"):
        scorer.open(Node(0, None, 0, 0, 1), "x" * 3000, branches=4, paths=4, steps=10, tokens=100, step_tokens=100)
