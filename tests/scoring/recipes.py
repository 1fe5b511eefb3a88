"""Recipes of the released formats, as their authors run them in transformers, and checkpoints to run them on.

A recipe says, for every step, the ids that end where the step is scored, and what is made of the hidden state there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor

from branchwise.text.tokenizer import Tokenizer
from checkpoints import MemoryCheckpoint, random_checkpoint
from scoring.vocabularies import LLAMA3, VOCABULARIES

QUESTION = "How many eggs per day? It has 16, and $3$ or (a) + 4."
STEPS = ["Step 1: 16 - 3 = 13 eggs.", "so 12 is 12:\n- one\n- two", "The answer is: 18"]
STEP_BY_STEP = "Please reason step by step, and put your final answer within \\boxed{}."
TEACHER = (
    "You are a Math Teacher. Given a question and a student's solution, evaluate the mathematical correctness, logic "
    "consistency of the current step and whether it will lead to the correct final solution"
)
QWEN = (  # as Qwen2.5 has it: a system message of its own where there is none
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3 = (  # as Qwen3 has it: an empty thought before the last answer
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m.role == 'assistant' and loop.last %}<think>\n\n"
    "</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
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


def joined(count: int) -> str:
    return "\n\n".join(STEPS[:count])


def whole(system: str | None) -> Recipe:
    """Outcome models: the whole conversation with the solution so far."""

    def recipe(tokenizer: Tokenizer) -> list[Ids]:
        asked = ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": QUESTION}]
        answers = [{"role": "assistant", "content": joined(count)} for count in range(1, len(STEPS) + 1)]
        return [tokenizer.encode(rendered(tokenizer, [*asked, answer]), special=True) for answer in answers]

    return recipe


def one_turn(tokenizer: Tokenizer) -> list[Ids]:
    found = []
    for count in range(1, len(STEPS) + 1):
        user = {"role": "user", "content": f"{QUESTION} {joined(count)}"}
        text = rendered(tokenizer, [user, {"role": "assistant", "content": "+"}])
        found.append(tokenizer.encode(text[: text.rindex("+<")], special=True))
    return found


def ended(tokenizer: Tokenizer) -> list[Ids]:
    """Universal-PRM: each prefix ends in the token that ends a sequence."""
    asked = f"{QUESTION}\n\n###\n\nThe reference answer is: There is no reference answer for this question."
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": asked}]
    query = tokenizer.encode(rendered(tokenizer, messages, add_generation_prompt=True), special=True)
    (eos,) = tokenizer.eos_ids
    return [[*query, *tokenizer.encode(f"{joined(count)}\n\n"), eos] for count in range(1, len(STEPS) + 1)]


def glued(tokenizer: Tokenizer) -> list[Ids]:
    return [tokenizer.encode(QUESTION) + tokenizer.encode(joined(count)) for count in range(1, len(STEPS) + 1)]


def asked_in_two_passes(tokenizer: Tokenizer) -> list[list[Ids]]:
    """PathFinder: of a step two verdicts, before the marks of a first pass, and one in a second, if both are good."""
    first, second = "<extra>, Consistency: <extra>", "<+>, Consistency: <+>, Correctness: <extra>"
    return [
        [ids for marks in (first, second) for ids in before_marks(tokenizer, f"{so_far(at)} Math reasoning: {marks}")]
        for at in range(len(STEPS))
    ]


def so_far(at: int) -> str:
    return "".join(f"{step}\n\n" for step in STEPS[:at]) + f"Current Step: {STEPS[at]}"


def before_marks(tokenizer: Tokenizer, said: str) -> list[Ids]:
    """A whole conversation up to each token before an `<extra>`."""
    user = {"role": "user", "content": f"{TEACHER}\n\n Question: {QUESTION}"}
    ids = tokenizer.encode(rendered(tokenizer, [user, {"role": "assistant", "content": said}]), special=True)
    return [ids[:at] for at, id in enumerate(ids) if id == tokenizer.token_id("<extra>")]


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
        ids = [tokenizer.encode(f"x{word}", special=True)[-1] for word in (good, bad)]
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


def mlp_number(tokenizer: Tokenizer) -> Score:
    def score(h: Tensor, t: dict[str, Tensor]) -> float:
        inner = (t["score.0.weight"] @ h + t["score.0.bias"]).relu()
        return (t["score.2.weight"] @ inner + t["score.2.bias"]).sigmoid().item()

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
MLP_NUMBER = MLP | {"score.2.weight": (1, 64), "score.2.bias": (1,)}
ONE = {"score.weight": (1, 64)}
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
    checks: Callable[[Tokenizer], list[list[Ids]]] = lambda tokenizer: [[] for _ in STEPS]  # read before the score

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
    "pathfinder": Case(
        "qwen2",
        lambda tokenizer: [ids for *_, ids in asked_in_two_passes(tokenizer)],
        words("<+>", "<->"),
        template=QWEN,
        specials=("<+>", "<->", "<extra>"),
        checks=lambda tokenizer: [ids for *ids, _ in asked_in_two_passes(tokenizer)],
    ),
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
    "universal": Case("qwen2", ended, linear("v"), {"v.weight": (1, 64), "v.bias": (1,)}, template=QWEN),
    "outcome": Case(
        "qwen3", whole(None), linear("score"), ONE, "Qwen3ForSequenceClassification", template=QWEN3, found=True
    ),
    "acemath-rm": Case(
        "qwen2",
        whole(STEP_BY_STEP.replace("put", "check")),
        linear("score"),
        ONE,
        "Qwen2ForSequenceClassification",
        template=QWEN,
    ),
    "qwen-rm": Case(
        "qwen2", whole(STEP_BY_STEP), mlp_number, MLP_NUMBER, "Qwen2ForRewardModel", template=QWEN, found=True
    ),
    "rlhflow-orm": Case("llama3", one_turn, words("+", "-"), vocabulary="llama3", template=LLAMA3),
    "reasonflux-orm": Case(
        "qwen2", glued, linear("reward_head"), {"reward_head.weight": (1, 64), "reward_head.bias": (1,)}, found=True
    ),
    "prm800k": Case("llama3", numbered, linear("reward"), {"reward.weight": (1, 64)}, "LlamaPRM", vocabulary="llama3"),
}
