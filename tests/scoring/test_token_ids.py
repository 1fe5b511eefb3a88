"""Ids of a problem and its steps, one by one, are the ids of the whole text that a PRM was trained on."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers

from branchwise.errors import TokenizerError
from branchwise.prm_format import Words
from branchwise.scoring.formats import PRM_FORMATS
from branchwise.scoring.inputs import Form, PrmInput, WrittenSteps
from branchwise.scoring.layouts import Written, written
from branchwise.text.tokenizer import Tokenizer
from branchwise.weights import open_checkpoint
from scoring.vocabularies import CHATML, LLAMA3, LLAMA_2, MISTRAL, VOCABULARIES

QUESTION = "How many eggs per day? It has 16, and $3$ or (a) + 4."
STEPS = [
    "Step 1: 16 - 3 = 13 eggs per day.",
    "Step 2: \\frac{13}{2} + 2.",
    "12 is 12, of many kinds:\n- one\n- two",
    "(b) Да, 解.",
    "The answer is: 18",
]
BYTE_LEVEL = ("qwen2", "llama3", "smollm")
TEMPLATES = {"chatml": CHATML, "llama 3": LLAMA3, "mistral": MISTRAL, "llama 2": LLAMA_2}


@pytest.fixture(params=VOCABULARIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def made_for(kind: str, tokenizer: Tokenizer) -> Written:
    return written(PRM_FORMATS[kind].layout, tokenizer, repr(kind))


def signs(kind: str, tokenizer: Tokenizer) -> tuple[PrmInput, int, int]:
    """A format that compares words, and their ids."""
    made, head = made_for(kind, tokenizer), PRM_FORMATS[kind].head
    assert isinstance(head, Words)
    return made.input, made.word(head.good), made.word(head.bad)


def incremental(made: PrmInput) -> tuple[list[int], list[int]]:
    """Ids of everything, and where the scores are read."""
    ids, ends = made.prompt(QUESTION), []
    for index, step in enumerate(STEPS):
        assert made.is_apart(index, f"{step}\n\n")
        ids = ids + made.step(index, f"{step}\n\n")
        ends.append(len(ids) - 1)
    return ids, ends


def test_steps_that_a_tokenizer_joins_with_what_is_before_them() -> None:
    """A vocabulary with a word of the end of a step and the beginning of the next one."""
    letters = ["#", "a", "b", "x", "\n"]
    vocabulary = {word: id for id, word in enumerate([*letters, "#a"])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("#", "a")]))
    backend.decoder = tokenizers.decoders.Fuse()
    tokenizer = Tokenizer.from_json(backend.to_str(), {})
    made = WrittenSteps(tokenizer, "", "", "", "", Form("", "#"))
    assert [made.is_apart(index, text) for index, text in ((0, "ab"), (1, "ba"), (1, "ab"), (1, " a"), (2, "b"))] == [
        True, True, False, False, True,
    ]  # fmt: skip
    assert replace(made, pieces=True).is_apart(1, "ab")
    assert replace(made, between="\n").is_apart(1, "ab")


def word(tokenizer: Tokenizer, id: int) -> str:
    return tokenizer._backend.id_to_token(id)


def test_math_shepherd(name: str) -> None:
    """As the model card: `f"{question} {output}"` with ` ки` behind every step, scores where the tag is."""
    tokenizer = VOCABULARIES[name](None)
    made, good, bad = signs("math-shepherd", tokenizer)
    ids, ends = incremental(made)
    text = f"{QUESTION} " + "".join(f"{step} ки\n" for step in STEPS).removesuffix("\n")
    assert ids == tokenizer.encode(text, bos=True)
    tag = tokenizer.encode("x ки")[-1]
    assert ends == [at for at, id in enumerate(ids) if id == tag]
    assert [good, bad] == [tokenizer.encode(f"x {verdict}")[-1] for verdict in "+-"]
    space = "Ġ" if name in BYTE_LEVEL else "▁"
    assert [word(tokenizer, id) for id in (good, bad)] == [f"{space}+", f"{space}-"]


def test_the_card_of_math_shepherd() -> None:
    """The published example: as many tags as steps, `Step` behind a tag has no space of its own."""
    question = (
        "Janet\u2019s ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her "
        "friends every day with four. She sells the remainder at the farmers' market daily for $2 per fresh duck egg. "
        "How much in dollars does she make every day at the farmers' market?"
    )
    output = (
        "Step 1: Janet's ducks lay 16 eggs per day. ки\n"
        "Step 2: She eats three for breakfast every morning, so she has 16 - 3 = 13 eggs left. ки\n"
        "Step 3: She bakes muffins for her friends every day with four eggs, so she has 13 - 4 = 9 eggs left. ки\n"
        "Step 4: She sells the remainder at the farmers' market daily for $2 per fresh duck egg, so she makes "
        "9 * $2 = $18 every day at the farmers' market. The answer is: 18 ки"
    )
    for name in (
        "prepend, spaces last",
        "prepend, spaces first",
        "metaspace first, spaces last",
        "gguf, prefix, spaces last",
    ):
        tokenizer = VOCABULARIES[name](None)
        made, good, bad = signs("math-shepherd", tokenizer)
        ids = made.prompt(question)
        for index, step in enumerate(output.split(" ки\n")):
            ids += made.step(index, step.removesuffix(" ки"))
        assert ids == tokenizer.encode(f"{question} {output}", bos=True)
        (tag,) = {id for id in ids if word(tokenizer, id) == "▁ки"}
        assert ids.count(tag) == 4
        behind = [word(tokenizer, ids[at + 2]) for at, id in enumerate(ids[:-1]) if id == tag]
        assert behind == ["Step"] * 3
        assert [good, bad] == tokenizer.encode("+ -"), "as the card finds them"
        assert tag == tokenizer.encode("ки")[-1]


@pytest.mark.parametrize("template", TEMPLATES)
def test_rlhflow(name: str, template: str) -> None:
    """The whole conversation through the template, every verdict "+"; scores at the token before each."""
    tokenizer = VOCABULARIES[name](TEMPLATES[template])
    made, good, bad = signs("rlhflow", tokenizer)
    ids, ends = incremental(made)
    turns: list[dict[str, str]] = []
    for index, step in enumerate(STEPS):
        turns.append({"role": "user", "content": step if index else f"{QUESTION} {step}"})
        turns.append({"role": "assistant", "content": "+"})
    whole = ids_of(tokenizer, TEMPLATES[template], turns)
    assert whole[: len(ids)] == ids
    assert [whole[end + 1] for end in ends] == [good] * len(STEPS)
    turns[-1]["content"] = "-"
    assert ids_of(tokenizer, TEMPLATES[template], turns)[ends[-1] + 1] == bad
    assert [word(tokenizer, id).strip("▁Ġ") for id in (good, bad)] == ["+", "-"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_qwen_prm(name: str, template: str) -> None:
    tokenizer = VOCABULARIES[name](TEMPLATES[template])
    made = made_for("qwen-prm", tokenizer).input
    ids, ends = incremental(made)
    text = "".join(f"{step}<extra_0>" for step in STEPS)
    system = "Please reason step by step, and put your final answer within \\boxed{}."
    contents = {"system": system, "user": QUESTION, "assistant": text}
    whole = ids_of(tokenizer, TEMPLATES[template], [{"role": role, "content": t} for role, t in contents.items()])
    assert whole[: len(ids)] == ids
    assert ends == [at for at, id in enumerate(whole) if id == tokenizer.token_id("<extra_0>")]


def test_skywork(name: str) -> None:
    """Lines are cut into tokens by themselves, and no line gets a space that it does not have."""
    tokenizer = VOCABULARIES[name](None)
    made = made_for("skywork", tokenizer).input
    ids, ends = incremental(made)
    newline = tokenizer.encode("\n")[-1]
    lines = [step.replace("\n", " ") for step in STEPS]
    assert [ids[end] for end in ends] == [newline] * len(STEPS)
    if name not in BYTE_LEVEL:  # these join what is before a newline with it
        assert ids == tokenizer.encode("\n".join([QUESTION, *lines, ""]), bos=True)
    else:
        pieces = [[*tokenizer.encode(line), newline] for line in lines]
        assert ids == [1, *tokenizer.encode(f"{QUESTION}\n"), *(id for piece in pieces for id in piece)]


@pytest.mark.parametrize(("kind", "separator"), [("trl", "\n\n"), ("trl-lines", "\n")])
def test_trl(name: str, kind: str, separator: str) -> None:
    """Problem, steps and separators are cut into tokens by themselves, as PRMTrainer does."""
    tokenizer = VOCABULARIES[name](None)
    ids, ends = incremental(made_for(kind, tokenizer).input)
    between = tokenizer.encode(separator, after="x")
    assert all(ids[end + 1 - len(between) : end + 1] == between for end in ends)
    text = b"".join(map(tokenizer.token_bytes, ids)).decode()
    assert text.strip() == QUESTION + separator.join([*STEPS, ""]).strip()
    if name in BYTE_LEVEL:
        alone = [[*tokenizer.encode(step), *tokenizer.encode(separator)] for step in STEPS]
        assert ids == [1, *tokenizer.encode(QUESTION), *(id for piece in alone for id in piece)]


def ids_of(tokenizer: Tokenizer, template: str, messages: list[dict[str, str]]) -> list[int]:
    """What transformers makes of a conversation: the whole text at once."""
    import jinja2

    made = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template)
    text = made.render(messages=messages, bos_token="<s>", eos_token="</s>")
    tokenizer._backend.encode_special_tokens = False
    return list(tokenizer._backend.encode(text, add_special_tokens=False).ids)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["smollm2-135m-instruct-q4_1.gguf", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"])
def test_real_vocabularies(models_dir: Path, file: str) -> None:
    path = models_dir / file
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    tokenizer = open_checkpoint(path).tokenizer()
    made, good, _ = signs("rlhflow", tokenizer)
    ids, ends = incremental(made)
    turns: list[dict[str, str]] = []
    for index, step in enumerate(STEPS):
        turns.append({"role": "user", "content": step if index else f"{QUESTION} {step}"})
        turns.append({"role": "assistant", "content": "+"})
    assert tokenizer.chat_template is not None
    whole = ids_of(tokenizer, tokenizer.chat_template, turns)
    assert whole[: len(ids)] == ids
    assert [whole[end + 1] for end in ends] == [good] * len(STEPS)


def test_real_tokenizer_json() -> None:
    """Math-Shepherd's ids with the vocabulary of a folder named by the user, such as Mistral's."""
    folder = os.environ.get("BRANCHWISE_TEST_MISTRAL")
    if folder is None:
        pytest.skip("BRANCHWISE_TEST_MISTRAL names no folder with Mistral's tokenizer.json")
    tokenizer = Tokenizer.from_folder(folder)
    made, good, bad = signs("math-shepherd", tokenizer)
    assert (made.step(0, "x")[-1], good, bad) == (12902, 648, 387)
    ids, _ = incremental(made)
    assert ids == tokenizer.encode(f"{QUESTION} " + " ки\n".join(STEPS) + " ки", bos=True)


def test_borders_that_no_cut_can_keep_are_refused() -> None:
    """A vocabulary whose words go across the border: the error says which format and what to do."""
    tokenizer = VOCABULARIES["metaspace never, spaces last"](None)
    spec = json.loads(tokenizer._backend.to_str())
    words = spec["model"]["vocab"]
    words["и\n"], words["\n"] = len(words), len(words) + 1
    spec["model"]["merges"].insert(0, ["и", "\n"])
    with pytest.raises(TokenizerError, match=r"needs 'ки' as one token|steps cannot be told apart"):
        made_for("math-shepherd", Tokenizer.from_json(json.dumps(spec), {"bos_token": "<s>"}))


def test_a_prm_whose_template_refuses_what_it_was_trained_with() -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
    with pytest.raises(TokenizerError, match=r"no system role.*use the files that came with the PRM"):
        made_for("qwen-prm", VOCABULARIES["qwen2"](template))
