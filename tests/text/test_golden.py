"""GGUF vocabularies give the same ids and bytes as llama.cpp, on the recorded corpus of awkward strings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from branchwise.text.gguf_tokenizer import PRE_TOKENIZERS
from branchwise.text.tokenizer import Tokenizer
from text.gguf_metadata import read_metadata

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))
# llama.cpp takes "</s>" for an end token everywhere; here it is one of Gemma's HTML tags, and text.
NOT_AN_END = {"gemma-3-270m": {212}}
# Ends of other uses (fill in the middle, repositories, "</s>" as an ordinary word): not a turn's end.
OTHER_ENDS = {
    "qwen2.5-coder-0.5b": {128247, 151662, 151663, 151664},
    "smollm2": {4},
    **NOT_AN_END,
}


@dataclass(frozen=True)
class Golden:
    """Recorded values of one vocabulary, and what its GGUF file holds."""

    name: str
    values: dict[str, Any]
    metadata: dict[str, Any]
    tokenizer: Tokenizer


@pytest.fixture(scope="module", params=GOLDEN, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Golden:
    values = json.loads(request.param.read_text())
    metadata = values.get("metadata")
    if metadata is None:
        models_dir: Path = request.getfixturevalue("models_dir")
        file = models_dir / values["file"]
        if not file.is_file():
            pytest.skip(f"{file} is absent")
        metadata = read_metadata(file)
    return Golden(request.param.stem, values, metadata, Tokenizer.from_gguf(metadata))


def test_golden_files_are_complete() -> None:
    assert [path.stem for path in GOLDEN] == [
        "gemma-3-270m",
        "qwen2.5-coder-0.5b",
        "small-byte-level",
        "small-sentencepiece",
        "smollm2",
    ]
    for path in GOLDEN:
        values = json.loads(path.read_text())
        recorded = [variant["plain"] for variant in values["variants"].values()]
        assert all(len(ids) == len(values["texts"]) >= 200 for ids in recorded)
        assert all(ids != recorded[0] for ids in recorded[1:]), "a variant changed nothing"


def test_ids_and_bytes_equal_llama_cpp(golden: Golden) -> None:
    name, values = golden.name, golden.values
    for label, variant in values["variants"].items():
        overrides = variant["overrides"]
        tokenizer = Tokenizer.from_gguf(golden.metadata | overrides) if overrides else golden.tokenizer
        for special in (False, True):
            expected = variant["special" if special else "plain"]
            got = [tokenizer.encode(text, special=special) for text in values["texts"]]
            wrong = [text for text, a, b in zip(values["texts"], got, expected, strict=True) if a != b]
            assert not wrong, (label, special)
        pieces = {int(id): bytes.fromhex(piece) for id, piece in variant["pieces"].items()}
        skipped = NOT_AN_END.get(name, set())
        assert {id: tokenizer.token_bytes(id) for id in pieces if id not in skipped} == {
            id: piece for id, piece in pieces.items() if id not in skipped
        }
        assert tokenizer.eos_ids == set(variant["end"]) - OTHER_ENDS.get(name, set())
        assert (tokenizer.bos_id, tokenizer.add_bos) == (variant["bos"], variant["add_bos"])


def test_round_trip(golden: Golden) -> None:
    name, values, tokenizer = golden.name, golden.values, golden.tokenizer
    assert tokenizer.vocab_size == len(golden.metadata["tokenizer.ggml.tokens"])
    single = {tokenizer.token_bytes(id) for id in range(600)}
    missing = {byte for byte in range(256) if bytes([byte]) not in single}
    assert not missing or name == "smollm2", "only SmolLM2's vocabulary lacks bytes"
    prefix = b" " if name == "small-sentencepiece" else b""
    for text in values["texts"]:
        data = text.encode()
        # User-defined tokens start a new fragment, and each fragment gets the prefix.
        if data and not missing & set(data) and not (prefix and "INST]" in text):
            assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))) == prefix + data


@pytest.mark.parametrize(
    ("name", "same"),
    [("olmo", "gpt-2"), ("starcoder", "smollm"), ("deepseek-r1-qwen", "qwen2"), ("llama3", "llama-bpe")],
)
def test_aliases(name: str, same: str) -> None:
    assert PRE_TOKENIZERS[name] == PRE_TOKENIZERS[same]


@pytest.mark.slow
def test_metadata_twin_equals_the_gguf_library(models_dir: Path) -> None:
    gguf = pytest.importorskip("gguf")
    file = models_dir / "smollm2-135m-instruct-q4_1.gguf"
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    fields = gguf.GGUFReader(file).fields
    metadata = read_metadata(file)
    assert {name for name in fields if not name.startswith("GGUF.")} == set(metadata)
    assert all(fields[name].contents() == value for name, value in metadata.items())
