"""A format of one's own is one record: what it can say, what it must not, and heads that have no kernel."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import branchwise as bw
from branchwise.assemble import load_models
from branchwise.assets import asset_path
from branchwise.backend.cpu.backend import CpuPrmHead
from branchwise.backend.gpu.backend import TorchPrmHead
from branchwise.config import EngineConfig
from branchwise.errors import CheckpointError, ConfigError, TokenizerError
from branchwise.prm_format import Chat, Ensemble, Labels, Linear, MeanLogit, Mlp, PrmFormat, Text, Turns, Words
from branchwise.scoring.formats import PRM_FORMATS, detect_format
from branchwise.weights import open_checkpoint
from checkpoints import MemoryCheckpoint, character_tokenizer, random_checkpoint
from model_tools import cpu_prm

OWN = PrmFormat(Text("Q: {problem}\nA:\n", "{number}) {step} = ", " "), Words("+", "-"))


def test_own_record() -> None:
    """A running text with counted steps, on a model that no format was made for."""
    prm = cpu_prm(random_checkpoint("llama3"), torch.float32, OWN)
    ids = prm.format.prompt("1+1?") + prm.format.step(0, "1+1\n\n") + prm.format.step(1, "Step 2: 2\n\n")
    assert prm.tokenizer.decode(ids) == "Q: 1+1?\nA:\n1) 1+1 =  2) 2 = "
    assert prm.note is not None
    assert prm.note.startswith("prm_format=your own: nothing in memory:llama says")


def test_an_engine_takes_a_record() -> None:
    policy, prm = (str(asset_path(name)) for name in ("policy-small", "prm"))
    named, given = (
        bw.Engine(policy, prm, prm_format=wanted, kv_memory=64 << 20) for wanted in ("auto", PRM_FORMATS["qwen-prm"])
    )
    results = [engine.solve("12+3*4=?", "best_of_n", n=2, seed=1, temperature=0.8) for engine in (named, given)]
    assert results[0].scores == results[1].scores != []
    with pytest.raises(ConfigError, match="prm_format=3: expected a name, 'auto', or a PrmFormat"):
        load_models(policy, prm, EngineConfig(prm_format=3))  # type: ignore[arg-type]


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "no problem": (lambda: Text("", "{step}\n"), r"problem='': expected \{problem\} in it, once"),
    "no step": (lambda: Text("{problem}", "\n"), r"step='\\n': expected \{step\}"),
    "two steps": (lambda: Chat("{step}{step}"), r"expected \{step\} in it, once"),
    "marker": (lambda: Text("{problem}", "{step} a", marker="b"), "expected it to end in marker='b'"),
    "last": (lambda: Chat("{step}", last="{end}"), r"last='\{end\}': expected \{step\}"),
    "checks": (lambda: Text("{problem}", "{step}", checks=("{step}", "good?")), r"checks='good\?': expected \{step\}"),
    "one check": (lambda: Chat("{step}", checks="{step}?"), "expected a tuple of texts"),  # type: ignore[arg-type]
    "messages": (lambda: Chat("{step}", messages=(("user", "{problem}"),)), r"expected \{steps\} in it"),
    "order": (lambda: Chat("{step}", messages=(("user", "{steps}{problem}"),)), r"expected \{problem\} before"),
    "turns": (lambda: Turns("{step} {problem}"), r"expected \{step\} at its end"),
    "verdict": (lambda: Turns(verdict=""), "expected a word of one token"),
    "layout": (lambda: PrmFormat("x", Mlp()), r"PrmFormat\('x', Mlp"),  # type: ignore[arg-type]
    "head": (lambda: PrmFormat(OWN.layout, "x"), "expected a layout .* and a head"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("kind", WRONG)
def test_records_that_cannot_work(kind: str) -> None:
    make, message = WRONG[kind]
    with pytest.raises(ConfigError, match=message):
        make()


def with_layers(*names: str) -> MemoryCheckpoint:
    made = random_checkpoint("qwen2")
    for name in names:
        made.tensors[f"{name}.weight"] = torch.ones(1, 64)
    return made


def test_layers_of_one_number() -> None:
    """Found by their shape, if there is one only; else by name."""
    layout = Text("{problem}\n", "{step}\n")
    assert cpu_prm(with_layers("whatever.out"), torch.float32, PrmFormat(layout, Linear())).note is None
    two = with_layers("a", "score")
    with pytest.raises(ConfigError, match=r"format of your own needs one layer .* has a, score: name it"):
        cpu_prm(two, torch.float32, PrmFormat(layout, Linear()))
    with pytest.raises(ConfigError, match="has none: name it"):
        cpu_prm(with_layers(), torch.float32, PrmFormat(layout, Linear()))
    with pytest.raises(ConfigError, match=r"needs b.weight, which memory:qwen2 lacks"):
        cpu_prm(two, torch.float32, PrmFormat(layout, Linear("b")))
    with pytest.raises(CheckpointError, match=r"1 tensors have no place in a qwen2 decoder: a.weight"):
        cpu_prm(two, torch.float32, PrmFormat(layout, Linear("score")))


@pytest.mark.parametrize("head", [Mlp(), Mlp(1), Ensemble(), Labels(), Linear("v_head.summary")])
def test_heads_that_are_not_there(head: Mlp | Ensemble | Labels | Linear) -> None:
    with pytest.raises((ConfigError, CheckpointError), match=r"which memory:qwen2 lacks|has no score.weight"):
        cpu_prm(random_checkpoint("qwen2"), torch.float32, PrmFormat(Text("{problem}\n", "{step}\n"), head))


def test_words_that_are_several_tokens() -> None:
    with pytest.raises(TokenizerError, match=r"format of your own needs 'good' as one token, .* splits it into 4"):
        cpu_prm(random_checkpoint("qwen2"), torch.float32, PrmFormat(OWN.layout, Words(" good", " bad")))
    no_end = PrmFormat(Text("{problem}\n", "{step}\n", last="{step}{eos}"), MeanLogit())
    made = random_checkpoint("qwen2")
    made._tokenizer.named_tokens.pop("eos_token")
    with pytest.raises(TokenizerError, match="ends in the end-of-sequence token, which this tokenizer lacks"):
        cpu_prm(made, torch.float32, no_end)


def test_an_ensemble_of_another_shape() -> None:
    made = random_checkpoint("qwen2")
    for layer, shape in {"nn1": (3, 32, 8), "nn2": (3, 8, 8), "nn_out": (3, 8, 1)}.items():
        made.tensors[f"score.model.{layer}.weight"] = torch.zeros(shape)
        made.tensors[f"score.model.{layer}.bias"] = torch.zeros(shape[0], shape[2])
    with pytest.raises(CheckpointError, match="expected networks of 64 inputs and one output"):
        cpu_prm(made, torch.float32)


@pytest.mark.parametrize(("kind", "rows"), [("logit", 1), ("ensemble", 3)])
def test_heads_without_a_kernel(kind: str, rows: int) -> None:
    """What a GPU does by plain products gives what the CPU gives."""
    torch.manual_seed(0)
    tensors = [torch.randn(16, 32), torch.randn(16), torch.randn(rows, 16), torch.randn(rows)]
    hidden = torch.randn(7, 32)
    on_cpu = CpuPrmHead(kind, tensors)  # type: ignore[arg-type]
    on_gpu = TorchPrmHead(kind, tensors, torch.device("cpu"))  # type: ignore[arg-type]
    assert on_gpu(hidden) == pytest.approx(on_cpu(hidden), abs=1e-4)
    assert [on_cpu(row[None])[0] for row in hidden] == on_cpu(hidden).tolist()


def test_a_search_with_an_outcome_model(tmp_path: Path) -> None:
    """Every branch is judged so far, inner steps, too; the same seed is the same search."""
    made = random_checkpoint("qwen2", tie_word_embeddings=False, architectures=["Qwen2ForSequenceClassification"])
    made.tensors["score.weight"] = torch.randn(1, 64, generator=torch.Generator().manual_seed(1))
    tokenizer = made.tokenizer()
    save_file(made.tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(made.config))
    (tmp_path / "tokenizer.json").write_text(tokenizer._backend.to_str())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "chat_template": tokenizer.chat_template})
    )
    engine = bw.Engine(str(asset_path("policy-small")), str(tmp_path), kv_memory=64 << 20)
    results = [engine.solve("12+3*4-5=?", "beam", n=4, expand=2, seed=3) for _ in range(2)]
    assert results[0].scores == results[1].scores
    assert len({score for candidate in results[0].candidates for score in candidate.scores}) > 2


def test_a_head_in_a_file_of_its_own(tmp_path: Path) -> None:
    """Read where it is safetensors; a pickle is told apart from there being none."""
    made = random_checkpoint("qwen2")
    save_file(made.tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(made.config))
    (tmp_path / "tokenizer.json").write_text(character_tokenizer()._backend.to_str())
    (tmp_path / "reward_head.pt").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match=r"reward_head.pt is a pickle.*never read.*'reward_head.safetensors'"):
        open_checkpoint(tmp_path)
    head = {"weight": torch.ones(1, 64), "bias": torch.ones(1)}
    save_file(head, tmp_path / "reward_head.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert detect_format(checkpoint, checkpoint.tokenizer()) == "reasonflux-orm"
    assert torch.equal(checkpoint.load("reward_head.weight", torch.float32), head["weight"])
    assert cpu_prm(checkpoint, torch.float32).wide
