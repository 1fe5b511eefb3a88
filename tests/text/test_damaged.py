"""Damaged tokenizer files: a TokenizerError, or a tokenizer that works; never an error of somebody else."""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from branchwise.errors import BranchwiseError, InputError, TokenizerError
from branchwise.pair.prompts import problem_lineage, prompt_ids
from branchwise.text.chat import encode_prompt
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Problem
from scoring.vocabularies import sentencepiece as scored
from scoring.vocabularies import words_and_merges
from text.vocabularies import CONFIG, byte_level, character_unigram

VALUES: list[Any] = [None, True, -1, 0, 1, 10**12, 1e308, "", "a", "\ud800", "</s>", [], [1], ["x"], {}, {"content": 1}]
CONFIGURATION = {**CONFIG, "add_bos_token": True, "chat_template": "{{ messages[0].content }}", "pad_token": "<unk>"}
TEXT = "Step 1: 16 - 3 = 13 </s> 解 \x00"


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document; of long lists and dicts a few."""
    lists = enumerate(document) if isinstance(document, list) else ()
    items = document.items() if isinstance(document, dict) else lists
    found = [path] if path else []
    for key, value in list(items)[:12]:
        found += places(value, (*path, key))
    return found


def mutated(document: Any, rng: random.Random) -> Any:
    """A copy with one to three values replaced, dropped or exchanged."""
    document = copy.deepcopy(document)
    for _ in range(rng.randint(1, 3)):
        *path, last = rng.choice(places(document))
        parent = document
        for key in path:
            parent = parent[key]
        if rng.random() < 0.25:
            del parent[last]
        else:
            parent[last] = copy.deepcopy(rng.choice(VALUES))
        if not places(document):
            break
    return document


def scrambled(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, or the end lost."""
    if rng.random() < 0.2:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(changed)


def used(load: Callable[[], Tokenizer]) -> bool:
    """Load and use; whether it worked."""
    said: BranchwiseError | None = None
    try:
        tokenizer = load()
        for special in (False, True):
            tokenizer.decode(tokenizer.encode(TEXT, special=special))
            tokenizer.encode(TEXT, special=special, after="x")
        encode_prompt(tokenizer, TEXT)
        prompt_ids(tokenizer, Problem("p", TEXT), "Think.")
        tokenizer.check_fits(tokenizer.vocab_size, "a model")
    except BranchwiseError as error:
        said = error
    assert said is None or len(str(said).splitlines()) == 1
    return said is None


SOURCES = {
    "byte level": byte_level,
    "sentencepiece": lambda: scored(True),
    "metaspace": lambda: scored(True, metaspace="first"),
    "unigram": character_unigram,
}
ROUNDS = [pytest.param(60, id="some"), pytest.param(1500, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("kind", SOURCES)
def test_mutated_folders(tmp_path: Path, kind: str, rounds: int) -> None:
    rng = random.Random(kind)
    spec = json.loads(SOURCES[kind]().to_str())
    models = {"eos_token_id": [2, 3], "model_type": "llama"}
    files = {"tokenizer.json": spec, "tokenizer_config.json": CONFIGURATION, "special_tokens_map.json": CONFIG,
             "generation_config.json": models, "config.json": models}  # fmt: skip
    worked = 0
    for _ in range(rounds):
        victim = rng.choice([*files, "tokenizer.json", "tokenizer_config.json"])
        for name, document in files.items():
            as_values = name == victim and rng.random() < 0.7
            data = json.dumps(mutated(document, rng) if as_values else document).encode()
            (tmp_path / name).write_bytes(scrambled(data, rng) if name == victim and not as_values else data)
        worked += used(lambda: Tokenizer.from_folder(tmp_path))
    assert 0 < worked < rounds


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_mutated_metadata(model: str, rounds: int) -> None:
    """Of GGUF files."""
    rng = random.Random(model)
    words, merges = words_and_merges(True)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    metadata = {
        "tokenizer.ggml.model": model, "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(words)],
        "tokenizer.ggml.scores": [-float(rank) for rank in range(len(tokens))],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges], "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }  # fmt: skip
    worked = sum(used(lambda: Tokenizer.from_gguf(mutated(metadata, rng))) for _ in range(rounds))
    assert 0 < worked < rounds


FILES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"]


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_not_utf8(tmp_path: Path, name: str) -> None:
    (tmp_path / "tokenizer.json").write_text(byte_level().to_str())
    (tmp_path / name).write_bytes(b'{"eos_token": "\xff"}')
    with pytest.raises(TokenizerError, match=rf"{name} cannot be read as UTF-8"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"eos_token": 1}, "eos_token is '1', expected the token's text"),
        ({"bos_token": {"content": 3}}, "bos_token is .*expected the token's text"),
        ({"eos_token": ["</s>"]}, "eos_token is .*expected the token's text"),
        ({"eos_token_id": "2"}, "eos_token_id is 2, expected a token id"),
        ({"eos_token_id": [1, None]}, "eos_token_id is .*expected a token id"),
        ({"eos_token_id": -1}, "eos_token_id is -1, expected a token id"),
        ({"chat_template": 7}, "chat_template is a int, expected text"),
        ({"chat_template": {"default": "x"}}, "chat_template is a dict"),
        ({"chat_template": [{"name": "default", "template": 5}]}, "chat_template is a int"),
    ],
)
def test_entries_of_the_wrong_kind(config: dict[str, Any], says: str) -> None:
    with pytest.raises(TokenizerError, match=says):
        Tokenizer.from_json(byte_level().to_str(), config)


def test_what_the_library_raises_is_an_error() -> None:
    """It raises Exception itself for most damage."""
    spec = json.loads(byte_level().to_str())
    damage = {
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?"}, "behavior": "Isolated", "invert": False},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 2**32}, "merges": [["a", "z"]]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": "x"},
        "added_tokens": [{"id": -1}],
    }
    for key, value in damage.items():
        with pytest.raises(TokenizerError, match="cannot be read"):
            Tokenizer.from_json(json.dumps({**spec, key: value}), {})


class PanicException(BaseException):
    """As the library's own, which no `except Exception` catches."""


def test_a_panic_of_the_library_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def panics(text: str) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr("branchwise.text.tokenizer.detect_surface", panics)
    with pytest.raises(TokenizerError, match="PanicException: index out of bounds"):
        Tokenizer.from_json("{}", {})
    monkeypatch.setattr("branchwise.text.tokenizer.detect_surface", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        Tokenizer.from_json("{}", {})


def _interrupted(spec: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("text", ["a\ud800", "\udfff", "x" * 100 + "\udc80y"])
def test_lone_surrogates(text: str) -> None:
    tokenizer = Tokenizer.from_json(byte_level().to_str(), {**CONFIG, "chat_template": "{{ messages[0].content }}"})
    for prompt in (None, text, [{"role": "user", "content": text}]):
        problem = Problem(text, text, prompt=prompt)
        assert problem_lineage(problem) >= 0
        with pytest.raises(InputError, match="lone surrogate at index"):
            prompt_ids(tokenizer, problem, "")


def test_an_id_far_beyond_all_others_costs_no_time() -> None:
    spec = json.loads(byte_level().to_str())
    spec["model"]["vocab"]["zz"] = 2**32 - 2
    tokenizer = Tokenizer.from_json(json.dumps(spec), CONFIG)
    begin = time.perf_counter()
    with pytest.raises(TokenizerError, match=rf"'zz' is number {2**32 - 2}"):
        tokenizer.check_fits(500, "a model")
    assert time.perf_counter() - begin < 10


def test_words_that_the_model_has_no_row_for() -> None:
    """Those of text are refused on load; a padding token may lie beyond, until somebody writes it."""
    backend = byte_level()
    rows = backend.get_vocab_size()
    backend.add_special_tokens(["<pad>"])
    tokenizer = Tokenizer.from_json(backend.to_str(), {**CONFIG, "pad_token": "<pad>"})
    tokenizer.check_fits(rows, "a model")
    assert tokenizer.encode("a<pad>") != []
    with pytest.raises(InputError, match="holds '<pad>', for which the model has no row"):
        tokenizer.encode("a<pad>", special=True)
    for written in ({"chat_template": "<pad>"}, {"eos_token": "<pad>"}):
        with pytest.raises(TokenizerError, match=rf"\('<pad>' is number {rows}\)"):
            Tokenizer.from_json(backend.to_str(), {**CONFIG, **written}).check_fits(rows, "a model")
    says = rf"a model: the tokenizer has ids below {rows + 1} .* the model has {rows - 9} rows:"
    with pytest.raises(TokenizerError, match=says):
        Tokenizer.from_json(backend.to_str(), CONFIG).check_fits(rows - 9, "a model")
