"""Small vocabularies made on the spot: byte-level, SentencePiece and character-level."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "The answer is 42.\n\nStep 1: add 17 and 25.\nStep 2: check the sum.\n\n",
    "def add(a, b):\n    return a + b  # the sum\n",
    "$\\frac{1}{2} + \\frac{1}{3} = \\frac{5}{6}$, so the answer is \\boxed{5}.",
    "Ein naïver Größenvergleich: 3 < 4, 日本語と中文。 😀👍🏽 e\u0301",
    "  leading and   inner   spaces\tand\ttabs   \n\n\n",
] * 3


def byte_level() -> tokenizers.Tokenizer:
    """GPT-2 style: words by regular expression, merges over bytes, one user-defined token."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken("<tool call ▷>", normalized=False)])
    return backend


def sentencepiece() -> tokenizers.Tokenizer:
    """Llama-2 style: U+2581 for spaces, byte fallback, a space before the first word."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL + bytes_, show_progress=False)
    backend.train_from_iterator(CORPUS[:2], trainer)
    spec = json.loads(backend.to_str())
    # Byte tokens are vocabulary, not markup that text may spell out.
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in SPECIAL]
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def character_level() -> tokenizers.Tokenizer:
    """One token per character, newlines and spaces as they are."""
    characters = sorted({character for text in CORPUS for character in text})
    vocabulary = {token: id for id, token in enumerate([*SPECIAL, *characters])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(SPECIAL)
    return backend


def character_unigram() -> tokenizers.Tokenizer:
    """One token per character as a Unigram model without a decoder."""
    characters = sorted({character for text in CORPUS for character in text})
    backend = tokenizers.Tokenizer(models.Unigram([(token, -1.0) for token in [*SPECIAL, *characters]], 0, False))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.add_special_tokens(SPECIAL)
    return backend


VOCABULARIES: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte level": byte_level,
    "sentencepiece": sentencepiece,
    "characters": character_level,
    "character unigram": character_unigram,
}

CONFIG: dict[str, Any] = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"}
