"""One tokenizer for every file: ids as transformers gives them, bytes that concatenate, and clear errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors

from branchwise.errors import InputError, TokenizerError
from branchwise.text.tokenizer import Tokenizer
from text.make_golden import texts
from text.vocabularies import CONFIG, CORPUS, SPECIAL, VOCABULARIES, byte_level, character_level, sentencepiece

ALL_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
MARKED_TEXT = st.lists(st.sampled_from(["a ", "\n\n", "é", "</s>", "<|im_end|>", " <s>", "日", "  b"])).map("".join)


@pytest.fixture(scope="module", params=VOCABULARIES, ids=lambda name: name.replace(" ", "-"))
def backend(request: pytest.FixtureRequest) -> tokenizers.Tokenizer:
    return VOCABULARIES[request.param]()


@pytest.fixture(scope="module")
def bytewise() -> Tokenizer:
    return Tokenizer.from_json(byte_level().to_str(), CONFIG)


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    return Tokenizer.from_json(sentencepiece().to_str(), CONFIG)


@pytest.fixture(scope="module")
def characters() -> Tokenizer:
    return Tokenizer.from_json(character_level().to_str(), CONFIG)


def test_ids_equal_transformers(backend: tokenizers.Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    ours = Tokenizer.from_json(backend.to_str(), CONFIG)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    for text in [*texts(), *CORPUS, "".join(SPECIAL), " <s> a</s>\n<|im_end|>"]:
        assert ours.encode(text, special=True) == theirs.encode(text, add_special_tokens=False)
        expected = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ours.encode(text) == expected
        assert ours.encode(text, bos=True) == [1, *expected]


@settings(max_examples=150, deadline=None)
@given(text=ALL_TEXT | MARKED_TEXT)
def test_byte_level_round_trip(bytewise: Tokenizer, text: str) -> None:
    ids = bytewise.encode(text)
    assert b"".join(map(bytewise.token_bytes, ids)) == text.encode()
    assert bytewise.decode(ids) == text


@settings(max_examples=100, deadline=None)
@given(text=ALL_TEXT.filter(lambda text: "▁" not in text))
def test_sentencepiece_round_trip_has_the_space_of_the_first_word(pieces: Tokenizer, text: str) -> None:
    expected = f" {text}" if text else ""
    assert pieces.decode(pieces.encode(text)) == expected


@given(text=st.text(sorted({character for text in CORPUS for character in text})))
def test_character_level_round_trip(characters: Tokenizer, text: str) -> None:
    ids = characters.encode(text)
    assert len(ids) == len(text)
    assert characters.decode(ids) == text


def test_token_bytes(bytewise: Tokenizer, pieces: Tokenizer) -> None:
    def id(token: str, tokenizer: Tokenizer = bytewise) -> int:
        found = tokenizer.token_id(token)
        assert found is not None
        return found

    assert bytewise.token_bytes(id("Ġthe")) == b" the"
    assert bytewise.token_bytes(id("Ċ")) == b"\n"
    assert bytewise.token_bytes(id("Ģ")) == b"\x80"
    assert bytewise.token_bytes(id("<tool call ▷>")) == "<tool call ▷>".encode(), "added tokens are plain text"
    assert [bytewise.token_bytes(id(token)) for token in SPECIAL] == [b""] * 5
    assert bytewise.token_bytes(bytewise.vocab_size + 5) == b"", "models pad their vocabulary"
    assert pieces.token_bytes(id("<0x0A>", pieces)) == b"\n"
    assert pieces.token_bytes(id("<0xE2>", pieces)) == b"\xe2"
    assert pieces.token_bytes(id("▁", pieces)) == b" "
    assert bytewise.token_id("no such token") is None


def test_decode_marks_cut_characters(bytewise: Tokenizer) -> None:
    ids = bytewise.encode("😀")
    assert len(ids) > 1
    assert bytewise.decode(ids[:1]) == "\ufffd"
    assert bytewise.decode([*ids, *bytewise.encode("</s>", special=True)]) == "😀"


def test_truncation_and_padding_of_the_file_are_ignored() -> None:
    backend = byte_level()
    backend.enable_truncation(3)
    backend.enable_padding(length=8)
    assert len(Tokenizer.from_json(backend.to_str(), CONFIG).encode("x" * 7)) == 7


@pytest.mark.parametrize(
    ("decoder", "pre_tokenizer", "token", "expected"),
    [
        (None, pre_tokenizers.ByteLevel(add_prefix_space=False), "Ġa", b" a"),
        (None, pre_tokenizers.Metaspace(), "▁a", b" a"),
        (decoders.Metaspace(), pre_tokenizers.Metaspace(), "▁a", b" a"),
        (decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()]), None, "<0x41>", b"A"),
        (decoders.Fuse(), pre_tokenizers.Split("", "isolated"), "▁a", "▁a".encode()),
        (None, None, "Ġa", "Ġa".encode()),
    ],
)
def test_surface_is_found_from_the_file(decoder: Any, pre_tokenizer: Any, token: str, expected: bytes) -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({token: 0, "<unk>": 1}, "<unk>"))
    if decoder is not None:
        backend.decoder = decoder
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    assert Tokenizer.from_json(backend.to_str(), {}).token_bytes(0) == expected


@pytest.mark.parametrize(
    "decoder", [decoders.WordPiece(), decoders.CTC(), decoders.BPEDecoder(), decoders.Metaspace("_")]
)
def test_decoders_that_look_at_neighbours_are_refused(decoder: Any) -> None:
    backend = character_level()
    backend.decoder = decoder
    with pytest.raises(TokenizerError, match=r"decodes with \w+.*use a tokenizer with"):
        Tokenizer.from_json(backend.to_str(), CONFIG)


def test_ends_and_bos_from_configuration() -> None:
    spec = byte_level().to_str()
    tokenizer = Tokenizer.from_json(spec, {**CONFIG, "eos_token_id": [9, 10], "chat_template": "x"})
    assert tokenizer.eos_ids == {2, 4, 9, 10}, "</s>, <|im_end|> and what the model declares"
    assert (tokenizer.bos_id, tokenizer.add_bos, tokenizer.chat_template) == (1, False, "x")
    assert tokenizer.named_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert Tokenizer.from_json(spec, {**CONFIG, "add_bos_token": True}).add_bos
    assert Tokenizer.from_json(spec, {"eos_token_id": 7}).eos_ids == {4, 7}
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    assert Tokenizer.from_json(spec, {"chat_template": named}).chat_template == "d"


def test_bos_is_found_in_the_post_processor() -> None:
    backend = byte_level()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = Tokenizer.from_json(backend.to_str(), CONFIG)
    assert tokenizer.add_bos
    assert tokenizer.encode("a") == Tokenizer.from_json(byte_level().to_str(), CONFIG).encode("a")


def test_folder(tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.from_folder(tmp_path).eos_ids == {4}
    for name, content in {
        "special_tokens_map.json": {"bos_token": "<s>", "eos_token": "<unk>"},
        "tokenizer_config.json": {"eos_token": "</s>", "chat_template": "old"},
        "generation_config.json": {"eos_token_id": [11, 12]},
        "config.json": {"eos_token_id": 13},
    }.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "chat_template.json").write_text('{"chat_template": "of images"}')
    assert Tokenizer.from_folder(tmp_path).chat_template == "old"
    (tmp_path / "chat_template.jinja").write_text("{{ 'new' }}")
    tokenizer = Tokenizer.from_folder(str(tmp_path))
    assert tokenizer.eos_ids == {2, 4, 11, 12, 13}
    assert (tokenizer.bos_id, tokenizer.chat_template) == (1, "{{ 'new' }}")
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    assert Tokenizer.from_folder(tmp_path).chat_template == "of images"


def test_damaged_folders(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json; .*save_pretrained"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="cannot be read"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(TokenizerError, match=r"cannot be read.*upgrade"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(TokenizerError, match="expected a JSON object"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("nonsense")
    with pytest.raises(TokenizerError, match="not valid JSON"):
        Tokenizer.from_folder(tmp_path)


def test_errors_of_use(bytewise: Tokenizer) -> None:
    with pytest.raises(InputError, match="lone surrogate at index 1"):
        bytewise.encode("a\ud800")
    with pytest.raises(TokenizerError, match="no BOS token"):
        Tokenizer.from_json(byte_level().to_str(), {}).encode("a", bos=True)
    with pytest.raises(TokenizerError, match="eos_token is '<end>', which is not in the vocabulary"):
        Tokenizer.from_json(byte_level().to_str(), {"eos_token": "<end>"})
