"""Every format on a random checkpoint with the tensor names of the real one, against its own recipe in transformers.

The recipes say, for every step, the ids that end where the step is scored, and what is made of the hidden state there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor

from branchwise.engine.kv import KvCache
from branchwise.prm_format import raw_reward
from branchwise.scoring.formats import PRM_FORMATS, detect_format
from branchwise.scoring.prm import Prm
from branchwise.scoring.scorer import Scorer
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Node
from checkpoints import MemoryCheckpoint, random_checkpoint
from model_tools import cpu_prm
from scoring.vocabularies import LLAMA3, VOCABULARIES

QUESTION = "How many eggs per day? It has 16, and $3$ or (a) + 4."
STEPS = ["Step 1: 16 - 3 = 13 eggs.", "so 12 is 12:\n- one\n- two", "The answer is: 18"]
STEP_BY_STEP = "Please reason step by step, and put your final answer within \\boxed{}."
QWEN = (  # as Qwen2.5 has it: a system message of its own where there is none
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Ids = list[int]
Recipe = Callable[[Tokenizer], list[Ids]]
Score = Callable[[Tensor, dict[str, Tensor]], float]


# --- what is read ------------------------------------------------------------------------------


def running(problem: str, *ends: str, bos: bool = False) -> Recipe:
    """One text; ends: what follows each step up to where it is scored, and what follows the score."""
    end, between = ends

    def recipe(tokenizer: Tokenizer) -> list[Ids]:
        text, texts = problem.format(QUESTION), []
        for step in STEPS:
            text += step + end
            texts.append(text)
            text += between
        return [tokenizer.encode(each, special=True, bos=bos) for each in texts]

    return recipe


def chat(system: str | None, end: str = "<extra_0>") -> Recipe:
    def recipe(tokenizer: Tokenizer) -> list[Ids]:
        asked = ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": QUESTION}]
        text = end.join(STEPS) + end
        ids = tokenizer.encode(rendered(tokenizer, [*asked, {"role": "assistant", "content": text}]), special=True)
        marker = tokenizer.token_id(end)
        return [ids[: at + 1] for at, id in enumerate(ids) if id == marker]

    return recipe


def rendered(tokenizer: Tokenizer, messages: list[dict[str, str]], **more: Any) -> str:
    import jinja2

    made = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(tokenizer.chat_template or "")
    return made.render(messages=messages, bos_token="<s>", eos_token="</s>", **more)


def turns(tokenizer: Tokenizer) -> list[Ids]:
    found, messages = [], []
    for index, step in enumerate(STEPS):
        messages.append({"role": "user", "content": step if index else f"{QUESTION} {step}"})
        messages.append({"role": "assistant", "content": "+"})
        text = rendered(tokenizer, messages)
        found.append(tokenizer.encode(text[: text.rindex("+<")], special=True))
    return found


def pieces(separator: str, problem: str = "{}") -> Recipe:
    """As PRMTrainer: problem, steps and separators each by themselves."""

    def recipe(tokenizer: Tokenizer) -> list[Ids]:
        ids, found = tokenizer.encode(problem.format(QUESTION), bos=True), []
        for step in STEPS:
            ids = ids + tokenizer.encode(step) + tokenizer.encode(separator)
            found.append(ids)
        return found

    return recipe


def lines(tokenizer: Tokenizer) -> list[Ids]:
    """Skywork: a step is one line."""
    ids, found = tokenizer.encode(f"{QUESTION}\n", bos=True), []
    for step in STEPS:
        ids = ids + tokenizer.encode(step.replace("\n", " ")) + tokenizer.encode("\n")
        found.append(ids)
    return found


def numbered(tokenizer: Tokenizer) -> list[Ids]:
    found, text = [], f"Problem: {QUESTION}\nSteps:\n"
    for number, step in enumerate(STEPS, 1):
        text += f"Step {number}: {step.removeprefix('Step 1: ')}\nки"
        found.append(tokenizer.encode(text, special=True))
        text += "\n"
    return found


# --- and what is made of it ------------------------------------------------------------------------------


def words(good: str, bad: str) -> Callable[[Tokenizer], Score]:
    def made(tokenizer: Tokenizer) -> Score:
        ids = [tokenizer.encode(f"x{word}")[-1] for word in (good, bad)]
        return lambda h, tensors: (tensors["lm_head.weight"] @ h)[ids].softmax(0)[0].item()

    return made


def mean_logit(tokenizer: Tokenizer) -> Score:
    return lambda h, tensors: (tensors["lm_head.weight"] @ h).mean().sigmoid().item()


def linear(name: str) -> Callable[[Tokenizer], Score]:
    def score(h: Tensor, tensors: dict[str, Tensor]) -> float:
        return torch.nn.functional.linear(h, tensors[f"{name}.weight"], tensors.get(f"{name}.bias")).sigmoid().item()

    return lambda tokenizer: score


def labels(tokenizer: Tokenizer) -> Score:
    return lambda h, t: (t["score.weight"] @ h + t["score.bias"]).softmax(0)[1].item()


def mlp(tokenizer: Tokenizer) -> Score:
    def score(h: Tensor, t: dict[str, Tensor]) -> float:
        inner = (t["score.0.weight"] @ h + t["score.0.bias"]).relu()
        return (t["score.2.weight"] @ inner + t["score.2.bias"]).softmax(0)[1].item()

    return score


def ensemble(tokenizer: Tokenizer) -> Score:
    def score(h: Tensor, t: dict[str, Tensor]) -> float:
        x = h.expand(len(t["score.model.nn1.weight"]), 1, 1, -1)
        for layer in ("nn1", "nn2", "nn_out"):
            x = torch.einsum("eblh,ehm->eblm", x, t[f"score.model.{layer}.weight"])
            x = x + t[f"score.model.{layer}.bias"][:, None, None, :]
            x = x.relu() if layer != "nn_out" else x
        return x.sigmoid().mean().item()

    return score


V_HEAD = {"v_head.summary.weight": (1, 64), "v_head.summary.bias": (1,)}
MLP = {"score.0.weight": (64, 64), "score.0.bias": (64,), "score.2.weight": (2, 64), "score.2.bias": (2,)}
LABELS = {"score.weight": (2, 64), "score.bias": (2,)}
NETWORKS = {
    f"score.{kind}.{layer}.{part}": (3, *shape)
    for kind in ("model", "reg_model")
    for layer, sizes in {"nn1": (64, 8), "nn2": (8, 8), "nn_out": (8, 1)}.items()
    for part, shape in {"weight": sizes, "bias": sizes[1:]}.items()
}


@dataclass(frozen=True)
class Case:
    """One released format: on which family, with which tensors, and its recipe."""

    family: str
    recipe: Recipe
    score: Callable[[Tokenizer], Score]
    head: dict[str, tuple[int, ...]] = field(default_factory=dict)
    classes: str = ""
    vocabulary: str = "qwen2"
    template: str | None = None
    specials: tuple[str, ...] = ()
    found: bool = False  # by its head, without a name
    bos: bool = False

    def checkpoint(self) -> MemoryCheckpoint:
        overrides = {"architectures": [self.classes]} if self.classes else {}
        made = random_checkpoint(self.family, seed=5, vocab_size=512, tie_word_embeddings=False, **overrides)
        generator = torch.Generator().manual_seed(6)
        for name, shape in self.head.items():
            made.tensors[name] = torch.randn(shape, generator=generator) * 0.3
        made.tensors["lm_head.weight"] += torch.randn(64, generator=generator) * 0.1  # words have a mean
        tokenizer = VOCABULARIES[self.vocabulary](self.template)
        backend = Backend.from_str(tokenizer._backend.to_str())
        backend.add_special_tokens(list(self.specials))
        config = {"bos_token": "<s>", "eos_token": "<|im_end|>", "chat_template": self.template}
        made._tokenizer = Tokenizer.from_json(backend.to_str(), {**config, "add_bos_token": self.bos})
        return made


LLAMA: Any = {"vocabulary": "prepend, spaces last", "bos": True}
CASES = {
    "math-shepherd": Case("mistral", running("{} ", " ки", "\n", bos=True), words(" +", " -"), **LLAMA),
    "er-prm": Case("llama3", running("{} ", " ки", ""), words(" +", " -"), vocabulary="llama3"),
    "math-psa": Case("qwen2", running("{} ", " \n\n\n\n\n", " "), words(" +", " -")),
    "versa-prm": Case("llama3", running("{} \n\n", " \n\n\n\n", ""), words("+", "-"), vocabulary="llama3"),
    "rlhflow": Case("llama3", turns, words("+", "-"), vocabulary="llama3", template=LLAMA3),
    "llemma-reward": Case("llama", running("{} ", " ки", "\n", bos=True), mean_logit, **LLAMA),
    "llemma-prm800k": Case(
        "llama", running("# Question\n\n{}\n\n# Solution\n\n", "\n", "\n", bos=True), mean_logit, **LLAMA
    ),
    "qwen-prm": Case("qwen2", chat(STEP_BY_STEP), mlp, MLP, "Qwen2ForProcessRewardModel", template=QWEN, found=True),
    "reasonflux": Case("qwen2", chat(None), mlp, MLP, "Qwen2ForProcessRewardModel", template=QWEN),
    "act-prm": Case("qwen2", chat(STEP_BY_STEP), ensemble, NETWORKS, "Qwen2ForEnsemblePRM", template=QWEN, found=True),
    "skywork": Case("qwen2", lines, linear("v_head.summary"), V_HEAD, "Qwen2ForPrmModel", found=True),
    "pqm": Case(
        "llama", running("{}\n", " [PRM]", "\n"), linear("v_head.summary"), V_HEAD, specials=("[PRM]",), found=True
    ),
    "trl": Case("qwen2", pieces("\n\n"), labels, LABELS, "Qwen2ForTokenClassification", found=True),
    "trl-lines": Case("qwen2", pieces("\n"), labels, LABELS, "Qwen2ForTokenClassification"),
    "prm800k": Case("llama3", numbered, linear("reward"), {"reward.weight": (1, 64)}, "LlamaPRM", vocabulary="llama3"),
}


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
    ids = prm.format.prompt(QUESTION)
    for index, (step, recipe) in enumerate(zip(STEPS, CASES[name].recipe(prm.tokenizer), strict=True)):
        assert ids + prm.format.scored(index, f"{step}\n\n") == recipe
        ids += prm.format.step(index, f"{step}\n\n")


def test_scores_are_those_of_transformers(name: str, prm: Prm) -> None:
    case = CASES[name]
    checkpoint = case.checkpoint()
    score = case.score(prm.tokenizer)
    expected = [score(hidden(checkpoint, ids), checkpoint.tensors) for ids in case.recipe(prm.tokenizer)]
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
    assert scorer.kv.tree.n_free_blocks == scorer.kv.n_blocks
    return [node.score for node in nodes[1:]]


# --- numbers without bounds ------------------------------------------------------------------------------


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
