"""What a tokenizer's files say beside the vocabulary, read from whatever is in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from branchwise.errors import BranchwiseError, TokenizerError
from branchwise.text.gguf_tokenizer import END_TOKENS, GgufVocabulary, declared_id

_NAMED_TOKENS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """What a tokenizer knows beside its vocabulary."""

    vocab_size: int
    bos_id: int | None
    eos_ids: frozenset[int]  # any of these ends a branch
    add_bos: bool  # prompts that are plain strings start with `bos_id`
    chat_template: str | None
    named_tokens: dict[str, str]  # "bos_token" -> "<s>": what chat templates may print
    silent: frozenset[int]  # ids without text


@contextmanager
def readable(what: str, alternative: str = "") -> Iterator[None]:
    """Turns whatever damaged data raises, panics of the library among it, into a TokenizerError."""
    try:
        yield
    except BranchwiseError:
        raise
    except BaseException as error:
        # The library raises Exception itself, and its panics are no Exceptions.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        other = f" or {alternative}" if alternative else ""
        raise TokenizerError(
            f"{what} cannot be read ({cause[:300]}); it is damaged{other}: download it again, or upgrade tokenizers"
        ) from None


def read_folder(folder: Path) -> tuple[str, dict[str, Any]]:
    """The text of `tokenizer.json`, and the keys of all configuration files beside it that concern the tokenizer.

    Raises TokenizerError when a file is missing or damaged.
    """
    source = folder / "tokenizer.json"
    if not source.is_file():
        raise TokenizerError(
            f"{folder} has no tokenizer.json; load the tokenizer once with transformers and "
            "save_pretrained() it into that folder"
        )
    config = _read_json(folder / "special_tokens_map.json") | _read_json(folder / "tokenizer_config.json")
    models = {name: _read_json(folder / name) for name in ("generation_config.json", "config.json")}
    ends = [_ids(model.get("eos_token_id"), f"{name}: eos_token_id") for name, model in models.items()]
    config["eos_token_id"] = sorted(set().union(*ends))
    if config.get("chat_template") is None:  # models that see images keep theirs here
        config["chat_template"] = _read_json(folder / "chat_template.json").get("chat_template")
    template = folder / "chat_template.jinja"
    if template.is_file():
        config["chat_template"] = _read_text(template)
    return _read_text(source), config


def settings_from_config(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> TokenizerSettings:
    """Settings of a Hugging Face tokenizer. Raises TokenizerError for an entry of the wrong kind."""
    named = _named_tokens(config)
    ids = {name: _known_id(backend, name, named.get(name)) for name in ("bos_token", "eos_token")}
    bos_id = ids["bos_token"]
    added = backend.get_added_tokens_decoder()
    eos_ids = _ids(config.get("eos_token_id"), "eos_token_id") | _ids(ids["eos_token"], "eos_token")
    eos_ids |= {id for id, token in added.items() if token.content in END_TOKENS}
    starts_with_bos = bos_id is not None and backend.encode("").ids[:1] == [bos_id]
    return TokenizerSettings(
        vocab_size=max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1,
        bos_id=bos_id,
        eos_ids=frozenset(eos_ids),
        add_bos=bos_id is not None and bool(config.get("add_bos_token", starts_with_bos)),
        chat_template=_chat_template(config.get("chat_template")),
        named_tokens=named,
        silent=frozenset(id for id, token in added.items() if token.special),
    )


def settings_from_gguf(vocabulary: GgufVocabulary, metadata: Mapping[str, Any]) -> TokenizerSettings:
    """Settings of a GGUF file's tokenizer."""
    tokens = vocabulary.tokens
    keys = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}
    defaults = {"bos": vocabulary.bos_id, "eos": vocabulary.eos_id}
    ids = {name: declared_id(metadata, key, tokens, defaults.get(name)) for name, key in keys.items()}
    ends = {ids["eos"], *(declared_id(metadata, key, tokens) for key in ("eot", "eom"))}
    ends.update(map(vocabulary.backend.token_to_id, END_TOKENS))
    return TokenizerSettings(
        vocab_size=len(tokens),
        bos_id=ids["bos"],
        eos_ids=frozenset(id for id in ends if id is not None),
        add_bos=ids["bos"] is not None and bool(metadata.get("tokenizer.ggml.add_bos_token", vocabulary.add_bos)),
        chat_template=_chat_template(metadata.get("tokenizer.chat_template")),
        named_tokens={f"{name}_token": tokens[id] for name, id in ids.items() if id is not None},
        silent=vocabulary.silent,
    )


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    named = {}
    for name in (f"{each}_token" for each in _NAMED_TOKENS):
        entry = config.get(name)
        token = entry.get("content") if isinstance(entry, Mapping) else entry
        if entry in (None, False, ""):
            continue
        if not isinstance(token, str) or not token:
            raise TokenizerError(
                f"{name} is {str(entry)[:80]!r}, expected the token's text: correct tokenizer_config.json or "
                "special_tokens_map.json, or download them again"
            )
        named[name] = token
    return named


def _chat_template(given: Any) -> str | None:
    if isinstance(given, list):  # several named templates
        named = {entry.get("name"): entry.get("template") for entry in given if isinstance(entry, Mapping)}
        given = named.get("default")
    if given is not None and not isinstance(given, str):
        raise TokenizerError(
            f"chat_template is a {type(given).__name__}, expected text or a list of named templates: correct it, or "
            "download tokenizer_config.json again"
        )
    return given


def _known_id(backend: tokenizers.Tokenizer, name: str, token: str | None) -> int | None:
    id: int | None = None if token is None else backend.token_to_id(token)
    if token is not None and id is None:
        raise TokenizerError(
            f"{name} is {token!r}, which is not in the vocabulary: correct tokenizer_config.json or add the token "
            "to tokenizer.json"
        )
    return id


def _ids(value: Any, name: str) -> set[int]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(id, int) and not isinstance(id, bool) and 0 <= id < 1 << 31 for id in ids):
        raise TokenizerError(f"{name} is {str(value)[:80]}, expected a token id or a list of them: correct that file")
    return set(ids)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path} cannot be read as UTF-8 text ({error}): download or write it again") from None


def _read_json(path: Path) -> dict[str, Any]:
    """Contents of an optional JSON file, {} when it is absent."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not valid JSON ({error}): download or write it again") from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} holds a {type(content).__name__}, expected a JSON object: download it again")
    return content
