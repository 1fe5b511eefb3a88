"""GGUF vocabularies: merging by score against a slow reference, what files leave unsaid, and damaged files."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise.errors import TokenizerError
from branchwise.text.tokenizer import Tokenizer

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def sentencepiece(words: list[str], **changes: Any) -> dict[str, Any]:
    """Metadata of a SentencePiece vocabulary whose words rank in the order given."""
    keys = {
        "model": "llama",
        "tokens": ["<unk>", "<s>", "</s>", "<turn>", "\n\n", *BYTES, *words],
        "token_type": [2, 3, 3, 3, 4] + [6] * 256 + [1] * len(words),
        "scores": [0.0] * 261 + [-float(rank) for rank in range(len(words))],
        "add_space_prefix": False,
    }
    return _keyed({**keys, **changes})


def byte_level(**changes: Any) -> dict[str, Any]:
    keys = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": ["a", "b", "Ġ", "ab", "Ġab", "<|end_of_text|>", "<|im_end|>"],
        "token_type": [1, 1, 1, 1, 1, 3, 1],
        "merges": ["a b", "Ġ ab"],
    }
    return _keyed({**keys, **changes})


def _keyed(keys: dict[str, Any]) -> dict[str, Any]:
    return {f"tokenizer.ggml.{name}": value for name, value in keys.items() if value is not None}


def merge_slowly(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece by definition: join the neighbours whose union scores highest, the leftmost of equals."""
    symbols = list(text)
    while True:
        joined = [(-scores[a + b], at) for at, (a, b) in enumerate(pairwise(symbols)) if a + b in scores]
        if not joined:
            return symbols
        _, at = min(joined)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_merging_equals_the_slow_reference(data: st.DataObject) -> None:
    words = ["a", "b", "c", "▁"]
    for _ in range(data.draw(st.integers(1, 12))):  # words that grow from words, as training makes them
        word = data.draw(st.sampled_from(words)) + data.draw(st.sampled_from(words))
        words += [word] * (word not in words)
    tokenizer = Tokenizer.from_gguf(sentencepiece(words))
    scores = {word: -float(rank) for rank, word in enumerate(words)}
    for text in data.draw(st.lists(st.text("abc ", max_size=24), max_size=8)):
        expected = merge_slowly(text.replace(" ", "▁"), scores)
        assert [words[id - 261] for id in tokenizer.encode(text)] == expected


def test_bytes_user_defined_and_special_tokens() -> None:
    tokenizer = Tokenizer.from_gguf(sentencepiece(["a", "▁", "▁a"]))
    assert tokenizer.encode("a\né") == [261, 5 + 10, 5 + 0xC3, 5 + 0xA9]
    assert tokenizer.encode("\n\n\n a") == [4, 15, 263], "user-defined tokens come before merging"
    assert tokenizer.encode("<turn>", special=True) == [3]
    assert 3 not in tokenizer.encode("<turn>")
    assert tokenizer.decode([1, 261, 3, 4, 263, 2]) == "a\n\n a"


def test_space_prefix_of_every_fragment() -> None:
    metadata = sentencepiece(["a", "▁", "▁a"], add_space_prefix=None)
    tokenizer = Tokenizer.from_gguf(metadata)
    assert tokenizer.encode("a a<turn>a\n\na", special=True) == [263, 263, 3, 263, 4, 263]


def test_conventions_where_the_file_is_silent() -> None:
    piece = Tokenizer.from_gguf(sentencepiece(["a"]))
    assert (piece.bos_id, piece.eos_ids, piece.add_bos) == (1, {2}, True)
    assert piece.named_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    bpe = Tokenizer.from_gguf(byte_level())
    assert (bpe.bos_id, bpe.eos_ids, bpe.add_bos) == (None, {5, 6}, False)
    assert bpe.token_bytes(6) == b"", "an end token is special even where the file calls it a word"
    llama = Tokenizer.from_gguf(byte_level(pre="llama-bpe", bos_token_id=5, eot_token_id=3))
    assert (llama.bos_id, llama.eos_ids, llama.add_bos) == (5, {3, 5, 6}, True)
    assert not Tokenizer.from_gguf(byte_level(pre="llama-bpe", bos_token_id=5, add_bos_token=False)).add_bos
    assert Tokenizer.from_gguf(byte_level(bos_token_id=99)).bos_id is None
    assert Tokenizer.from_gguf(byte_level(token_type=None)).eos_ids == {5, 6}
    template = {"tokenizer.chat_template": "{{ 1 }}"}
    assert Tokenizer.from_gguf(byte_level() | template).chat_template == "{{ 1 }}"


def test_byte_level_merges_and_whole_words() -> None:
    assert Tokenizer.from_gguf(byte_level()).encode("ab ab") == [3, 4]
    no_merges = byte_level(merges=["a b"], pre="llama-bpe")
    assert Tokenizer.from_gguf(no_merges).encode(" ab") == [4], "llama-bpe takes known words whole"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, r"model is None; supported are 'gpt2', 'llama'"),
        (byte_level(model="bert"), r"model is 'bert'; .*use a model whose GGUF"),
        (byte_level(pre="tekken"), r"pre is 'tekken'; supported are default, gpt-2.*qwen2.*Hugging Face folder"),
        (byte_level(tokens=None), r"tokens is missing"),
        (byte_level(tokens=[]), r"tokens is 0 long"),
        (byte_level(merges=None), r"merges is missing"),
        (byte_level(merges=["a b", "ab"]), r"merges has 'ab', which does not join"),
        (byte_level(merges=["b a"]), r"merges has 'b a', which does not join"),
        (byte_level(token_type=[1]), r"token_type is 1 long, expected 7"),
        (byte_level(tokens=["a", "b", "Ġ", "ab", "Ġab", "b", "b"]), r"2 repeated words"),
        (sentencepiece(["a"], scores=None), r"scores is missing, expected 262"),
        (sentencepiece(["a"], scores=[0.0]), r"scores is 1 long, expected 262"),
    ],
)
def test_damaged_metadata(metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_gguf(metadata)
