"""Which model may judge, as a user sees it, and a judge that cuts text into many more tokens than the policy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import save_file

import branchwise as bw
from branchwise.assets import asset_path
from branchwise.cli import main
from branchwise.tree import walk
from checkpoints import CHARACTERS, CHATML, SPECIAL, random_checkpoint

QUESTION = "7*8+5-20=?"


def test_the_policy_as_its_own_judge_takes_a_word_and_gets_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    policy = str(asset_path("policy-small"))
    options = ["-n", "2", "--strategy", "best_of_n", "--max-steps", "1"]
    words = ["solve", QUESTION, *options, "--policy", policy, "--prm", policy]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: {policy} (of class ")
    assert main([*words, "--prm-format", "rlhflow"]) == 0
    assert capsys.readouterr().err.count("note: prm_format=rlhflow: nothing in ") == 1


def test_a_thousand_steps_answer_as_forty_do() -> None:
    with bw.Engine(kv_memory=1 << 30) as engine:
        few, many = (engine.solve(QUESTION, "beam", n=4, expand=2, max_steps=steps) for steps in (40, 1000))
    assert few.answer == many.answer == "41"
    assert [node.text for node in walk(few.tree)] == [node.text for node in walk(many.tree)]
    assert many.cuts == {}


def write_folder(folder: Path, numbers: bool, context: int, heads: str = "") -> str:
    """A random model of one token a character, or one for three digits."""
    words = list(dict.fromkeys([*SPECIAL, *CHARACTERS, *(f"{n:03}" for n in range(1000) if numbers)]))
    made = random_checkpoint(
        "qwen2", heads=heads, vocab_size=len(words), max_position_embeddings=context, architectures=["Qwen2ForCausalLM"]
    )
    added = [{"id": words.index(word), "content": word, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for word in SPECIAL]  # fmt: skip
    document = {
        "version": "1.0", "added_tokens": added, "normalizer": None, "post_processor": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[0-9]{3}|[\\s\\S]" if numbers else ""},
                          "behavior": "Isolated", "invert": False},
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": {word: id for id, word in enumerate(words)}, "unk_token": " "},
    }  # fmt: skip
    folder.mkdir()
    save_file(made.tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(made.config))
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "chat_template": CHATML}))
    return str(folder)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bw.Engine]:
    folder = tmp_path_factory.mktemp("models")
    policy = write_folder(folder / "policy", True, 2048)
    prm = write_folder(folder / "prm", False, 300, heads="mlp2")
    with bw.Engine(policy, prm, kv_memory=64 << 20, dtype="float32", delimiter="1") as made:
        yield made


@pytest.mark.parametrize("strategy", ["best_of_n", "beam"])
def test_a_step_of_three_times_as_many_tokens_ends_its_branch_alone(engine: bw.Engine, strategy: str) -> None:
    results = list(engine.solve_many([f"{n}+1=?" for n in range(3)], strategy, n=4, max_steps=99))
    assert [result.error for result in results] == [None] * 3
    ends = [node for result in results for node in walk(result.tree) if node.cut == "prm_context"]
    assert ends, "no step was too long: the test tests nothing"
    assert all(node.finish == "length" for node in ends)
    assert sum(result.cuts.get("prm_context", 0) for result in results) == len(ends)
    unscored = [node for node in ends if node.score is None]
    assert unscored
    assert engine.solve("1+1=?", strategy, n=4, max_steps=1).error is None, "the engine goes on"


def test_a_step_without_room_has_no_score_by_hand(engine: bw.Engine) -> None:
    with engine.open("1+1=?", branches=4) as tree:
        node = tree.root
        while not node.is_final:
            (node,) = tree.expand(node, 1, score=True)
    assert node.cut == "prm_context"
    assert node.score is None
