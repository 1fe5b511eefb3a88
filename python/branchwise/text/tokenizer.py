"""One tokenizer over the `tokenizers` library, whatever file the vocabulary came from."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from branchwise.errors import InputError, TokenizerError
from branchwise.text.chat_template import ChatTemplate
from branchwise.text.gguf_tokenizer import build_vocabulary
from branchwise.text.markup import is_control, is_markup
from branchwise.text.settings import TokenizerSettings, read_folder, readable, settings_from_config, settings_from_gguf
from branchwise.text.surface import Surface, byte_level, detect_surface

_NEUTRAL = "\n"  # does not join what comes after it


class Tokenizer:
    """Turns text into token ids and back; bytes of tokens concatenate, so steps can be cut anywhere.

    `vocab_size` counts the ids of the tokenizer; models may pad their logits beyond it. `control` are the added tokens
    that no text may spell, `markup` these and those that a model may write, but no user (`<think>`).
    """

    def __init__(self, backend: tokenizers.Tokenizer, surface: Surface, settings: TokenizerSettings) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._surface = surface
        self._silent = settings.silent
        self._rows = settings.vocab_size  # of the model, from `check_fits` on
        # Byte-level vocabularies hold added tokens as plain text, not in the byte alphabet.
        added = backend.get_added_tokens_decoder() if surface is byte_level else {}
        self._bytes: dict[int, bytes] = {id: token.content.encode() for id, token in added.items()}
        self._bytes.update(dict.fromkeys(settings.silent, b""))
        self._lock = threading.Lock()  # the backend's "parse special tokens" switch is shared state
        self._heads: dict[tuple[str, bool], list[int]] = {}  # ids of what texts come after
        words = [(each.content, each.special) for each in backend.get_added_tokens_decoder().values()]
        self.control = frozenset(word for word, special in words if is_control(word, special))
        self.markup = frozenset(word for word, special in words if is_markup(word, special))
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

    def encode(self, text: str, *, special: bool = False, bos: bool = False, after: str = "") -> list[int]:
        """Token ids of `text`. `special` also reads special tokens written out in the text; `bos` puts `bos_id` first.

        after: text that comes just before. Its ids are left out, and `text` is no beginning: it gets no space before
        its first word where vocabularies put one before a whole text.
        Raises InputError for text that is not valid Unicode, TokenizerError for `bos` without a BOS token.
        """
        if bos and self.bos_id is None:
            raise TokenizerError("bos=True, but this tokenizer has no BOS token: pass bos=False")
        ids = self._encode_after(after, text, special) if after else self._encode(text, special)
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

    def check_fits(self, words: int, source: str) -> None:
        """TokenizerError when text may have ids that a model of so many `words` has no row for.

        Tokens that no text and no template holds, such as one for padding, may lie beyond.
        """
        written = (self.named_tokens.get("bos_token"), self.named_tokens.get("eos_token"))
        vocabulary = self._backend.get_vocab(with_added_tokens=True) if self.vocab_size > words else {}
        used = [
            (id, word)
            for word, id in vocabulary.items()
            if id >= words and (id not in self._silent or word in written or word in (self.chat_template or ""))
        ]
        if used:
            id, word = min(used)
            raise TokenizerError(
                f"{source}: the tokenizer has ids below {self.vocab_size} ({word!r} is number {id}), the model has"
                f" {words} rows: use the tokenizer files that came with this model"
            )
        self._rows = words

    def same_words(self, other: Tokenizer) -> bool:
        """Whether every id means the same word in another vocabulary."""
        mine, theirs = (each._backend.get_vocab(with_added_tokens=True) for each in (self, other))
        return mine == theirs

    def _encode_after(self, after: str, text: str, special: bool) -> list[int]:
        for left in (after, _NEUTRAL):
            if (left, special) not in self._heads:
                self._heads[left, special] = self._encode(left, special)
            head = self._heads[left, special]
            ids = self._encode(left + text, special)
            if ids[: len(head)] == head:
                return ids[len(head) :]
        return self._encode(text, special)

    def _encode(self, text: str, special: bool) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"text has a lone surrogate at index {error.start}, expected valid Unicode: "
                "decode the source with errors='replace'"
            ) from None
        with self._lock, readable("this tokenizer"):
            self._backend.encode_special_tokens = not special
            ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        if self.vocab_size > self._rows and max(ids, default=0) >= self._rows:
            word = self._backend.id_to_token(max(ids))
            raise InputError(f"the text holds {word!r}, for which the model has no row: leave it out")
        return ids

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """Load from a Hugging Face model folder: `tokenizer.json` and the configuration files beside it.

        Raises TokenizerError when a file is missing or damaged.
        """
        return cls.from_json(*read_folder(Path(path)))

    @classmethod
    def from_json(cls, tokenizer_json: str, config: Mapping[str, Any]) -> Tokenizer:
        """Load from the text of a `tokenizer.json`.

        config: keys of `tokenizer_config.json` (`bos_token`, `eos_token`, `add_bos_token`, `chat_template` ...) and
        `eos_token_id` (int or list). Raises TokenizerError for a damaged file or a decoder without per-token bytes.
        """
        with readable("tokenizer.json", f"newer than the installed tokenizers {tokenizers.__version__}"):
            surface = detect_surface(json.loads(tokenizer_json))
            backend = tokenizers.Tokenizer.from_str(tokenizer_json)
            return cls(backend, surface, settings_from_config(backend, config))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """Load from GGUF metadata: plain Python values keyed `tokenizer.ggml.tokens` and so on.

        Token ids equal those of llama.cpp for the same file. Raises TokenizerError for a vocabulary that is
        damaged or of an unsupported kind.
        """
        with readable("the vocabulary of the GGUF file", "of an unknown kind"):
            vocabulary = build_vocabulary(metadata)
            return cls(vocabulary.backend, vocabulary.surface, settings_from_gguf(vocabulary, metadata))
