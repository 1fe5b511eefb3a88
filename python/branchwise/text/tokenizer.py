"""One tokenizer over the `tokenizers` library, whatever file the vocabulary came from."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from branchwise.errors import InputError, TokenizerError
from branchwise.text.chat_template import ChatTemplate
from branchwise.text.gguf_tokenizer import END_TOKENS, GgufVocabulary, build_vocabulary, declared_id
from branchwise.text.surface import Surface, byte_level, detect_surface

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


class Tokenizer:
    """Turns text into token ids and back; bytes of tokens concatenate, so steps can be cut anywhere.

    `vocab_size` counts the ids of the tokenizer; models may pad their logits beyond it.
    """

    def __init__(self, backend: tokenizers.Tokenizer, surface: Surface, settings: TokenizerSettings) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._surface = surface
        self._silent = settings.silent
        # Byte-level vocabularies hold added tokens as plain text, not in the byte alphabet.
        added = backend.get_added_tokens_decoder() if surface is byte_level else {}
        self._bytes: dict[int, bytes] = {id: token.content.encode() for id, token in added.items()}
        self._bytes.update(dict.fromkeys(settings.silent, b""))
        self._lock = threading.Lock()  # the backend's "parse special tokens" switch is shared state
        self.vocab_size = settings.vocab_size
        self.bos_id = settings.bos_id
        self.eos_ids = settings.eos_ids
        self.add_bos = settings.add_bos
        self.chat_template = settings.chat_template
        self.named_tokens = settings.named_tokens

    @functools.cached_property
    def chat(self) -> ChatTemplate | None:
        """The model's chat template. TokenizerError when it is of no use."""
        return None if self.chat_template is None else ChatTemplate(self.chat_template, self.named_tokens)

    def encode(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        """Token ids of `text`. `special` also reads special tokens written out in the text; `bos` puts `bos_id` first.

        Raises InputError for text that is not valid Unicode, TokenizerError for `bos` without a BOS token.
        """
        if bos and self.bos_id is None:
            raise TokenizerError("bos=True, but this tokenizer has no BOS token: pass bos=False")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"text has a lone surrogate at index {error.start}, expected valid Unicode: "
                "decode the source with errors='replace'"
            ) from None
        with self._lock:
            self._backend.encode_special_tokens = not special
            ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return [self.bos_id, *ids] if bos and self.bos_id is not None else ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`: their bytes joined and read as UTF-8, U+FFFD for what is cut; special tokens have no text.

        The space that SentencePiece may put before the first word is kept: texts of consecutive steps concatenate.
        """
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """Bytes that one token adds to the text: b"" for special tokens and for ids that only pad the model."""
        found = self._bytes.get(id)
        if found is None:
            token = self._backend.id_to_token(id)
            found = self._bytes[id] = b"" if token is None else self._surface(token)
        return found

    def token_id(self, token: str) -> int | None:
        """Id of a vocabulary entry or special token given as written in the vocabulary; None when there is none."""
        id: int | None = self._backend.token_to_id(token)
        return id

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """Load from a Hugging Face model folder: `tokenizer.json` and the configuration files beside it.

        Raises TokenizerError when a file is missing or damaged.
        """
        folder = Path(path)
        source = folder / "tokenizer.json"
        if not source.is_file():
            raise TokenizerError(
                f"{folder} has no tokenizer.json; load the tokenizer once with transformers and "
                "save_pretrained() it into that folder"
            )
        config = _read_json(folder / "special_tokens_map.json") | _read_json(folder / "tokenizer_config.json")
        models = [_read_json(folder / name) for name in ("generation_config.json", "config.json")]
        config["eos_token_id"] = sorted({id for model in models for id in _ids(model.get("eos_token_id"))})
        template = folder / "chat_template.jinja"
        if template.is_file():
            config["chat_template"] = template.read_text(encoding="utf-8")
        return cls.from_json(source.read_text(encoding="utf-8"), config)

    @classmethod
    def from_json(cls, tokenizer_json: str, config: Mapping[str, Any]) -> Tokenizer:
        """Load from the text of a `tokenizer.json`.

        config: keys of `tokenizer_config.json` (`bos_token`, `eos_token`, `add_bos_token`, `chat_template` ...) and
        `eos_token_id` (int or list). Raises TokenizerError for a damaged file or a decoder without per-token bytes.
        """
        try:
            surface = detect_surface(json.loads(tokenizer_json))
            backend = tokenizers.Tokenizer.from_str(tokenizer_json)
        except TokenizerError:
            raise
        except Exception as error:  # the library raises nothing more specific
            raise TokenizerError(
                f"tokenizer.json cannot be read ({error}); it is damaged or newer than the installed tokenizers "
                f"{tokenizers.__version__}: download it again or upgrade that package"
            ) from error
        return cls(backend, surface, _settings_from_config(backend, config))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """Load from GGUF metadata: plain Python values keyed `tokenizer.ggml.tokens` and so on.

        Token ids equal those of llama.cpp for the same file. Raises TokenizerError for a vocabulary that is
        damaged or of an unsupported kind.
        """
        vocabulary = build_vocabulary(metadata)
        return cls(vocabulary.backend, vocabulary.surface, _settings_from_gguf(vocabulary, metadata))


def _settings_from_config(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> TokenizerSettings:
    named = {}
    for name in _NAMED_TOKENS:
        token = config.get(f"{name}_token")
        if token:
            named[f"{name}_token"] = token if isinstance(token, str) else token["content"]
    ids = {name: _known_id(backend, name, named.get(name)) for name in ("bos_token", "eos_token")}
    bos_id = ids["bos_token"]
    added = backend.get_added_tokens_decoder()
    eos_ids = _ids(config.get("eos_token_id")) | _ids(ids["eos_token"])
    eos_ids |= {id for id, token in added.items() if token.content in END_TOKENS}
    template = config.get("chat_template")
    if isinstance(template, list):  # several named templates
        template = next((entry["template"] for entry in template if entry["name"] == "default"), None)
    starts_with_bos = bos_id is not None and backend.encode("").ids[:1] == [bos_id]
    return TokenizerSettings(
        vocab_size=max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1,
        bos_id=bos_id,
        eos_ids=frozenset(eos_ids),
        add_bos=bos_id is not None and bool(config.get("add_bos_token", starts_with_bos)),
        chat_template=template,
        named_tokens=named,
        silent=frozenset(id for id, token in added.items() if token.special),
    )


def _settings_from_gguf(vocabulary: GgufVocabulary, metadata: Mapping[str, Any]) -> TokenizerSettings:
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
        chat_template=metadata.get("tokenizer.chat_template"),
        named_tokens={f"{name}_token": tokens[id] for name, id in ids.items() if id is not None},
        silent=vocabulary.silent,
    )


def _known_id(backend: tokenizers.Tokenizer, name: str, token: str | None) -> int | None:
    id: int | None = None if token is None else backend.token_to_id(token)
    if token is not None and id is None:
        raise TokenizerError(
            f"{name} is {token!r}, which is not in the vocabulary: correct tokenizer_config.json or add the token "
            "to tokenizer.json"
        )
    return id


def _ids(value: int | list[int] | None) -> set[int]:
    return set() if value is None else {value} if isinstance(value, int) else set(value)


def _read_json(path: Path) -> dict[str, Any]:
    """Contents of an optional JSON file, {} when it is absent."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path} is not valid JSON ({error}): download or write it again") from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} holds a {type(content).__name__}, expected a JSON object: download it again")
    return content
