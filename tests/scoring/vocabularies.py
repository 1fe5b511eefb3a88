"""Vocabularies as PRMs have them: byte-level, SentencePiece with two orders of merges, Metaspace, GGUF."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from branchwise.text.gguf_tokenizer import PRE_TOKENIZERS
from branchwise.text.tokenizer import Tokenizer

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<extra_0>"]
WORDS = ["▁ки", "▁+", "▁-", "▁Step", "Step", "▁How", "▁many", "▁eggs", "▁=", "▁16", "▁per", "▁day.", "▁answer", "▁is"]
CHARACTERS = [chr(code) for code in range(33, 127)] + list("▁киДа解")


def words_and_merges(spaces_first: bool) -> tuple[list[str], list[tuple[str, str]]]:
    """Words of a SentencePiece vocabulary and how they come about; runs of spaces join first, or last."""
    runs = [("▁", "▁"), ("▁▁", "▁▁")]
    merges = []
    for word in WORDS:
        merges += [(word[:cut], word[cut]) for cut in range(1, len(word))]
    merges = list(dict.fromkeys([*runs, *merges] if spaces_first else [*merges, *runs]))
    return list(dict.fromkeys([*CHARACTERS, *(left + right for left, right in merges)])), merges


def sentencepiece(
    spaces_first: bool, *, metaspace: str | None = None, split: bool = False, prefix: bool = True
) -> Backend:
    """A vocabulary as Llama 2 and Mistral have it: through a normalizer, or through Metaspace with a scheme."""
    words, merges = words_and_merges(spaces_first)
    every = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    vocabulary = {word: id for id, word in enumerate(every)}
    backend = Backend(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if metaspace is None:
        replace = normalizers.Replace(" ", "▁")
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace] if prefix else [replace])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", metaspace, split=split)
    backend.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in SPECIAL])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


def byte_level(kind: str) -> Backend:
    """A byte-level vocabulary that cuts words as a family does; it joins spaces, punctuation and newlines."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in [
        "ĠÐºÐ\u00b8",
        "Ġ+",
        "Ġ-",
        "ĠStep",
        "Step",
        "Ġeggs",
        "Ġis",
        "ĊĊ",
        "?Ċ",
        "]Ċ",
        ".Ċ",
        "ĠĠ",
        "16",
        "ÐºÐ\u00b8",
    ]:
        merges += [(word[:cut], word[cut]) for cut in range(1, len(word))]
    words = [*alphabet, *(left + right for left, right in merges)]
    vocabulary = {word: id for id, word in enumerate(dict.fromkeys([*SPECIAL, *words]))}
    backend = Backend(models.BPE(vocabulary, [m for m in merges if m[0] in vocabulary and m[1] in vocabulary]))
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PRE_TOKENIZERS[kind].patterns]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in SPECIAL])
    backend.decoder = decoders.ByteLevel()
    return backend


def gguf(spaces_first: bool, prefix: bool, template: str | None = None) -> Tokenizer:
    """The SentencePiece vocabulary as a GGUF file has it: scores instead of merges."""
    words, _ = words_and_merges(spaces_first)
    every = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    kinds = [2, *[3] * (len(SPECIAL) - 1), *[6] * 256, *[1] * len(words)]
    metadata = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": every, "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": [-float(rank) for rank in range(len(every))], "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.add_space_prefix": prefix,
        "tokenizer.chat_template": template,
    }  # fmt: skip
    return Tokenizer.from_gguf(metadata)


Make = Callable[[str | None], Tokenizer]


def _json(make: Callable[[], Backend]) -> Make:
    config: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    return lambda template: Tokenizer.from_json(make().to_str(), {**config, "chat_template": template})


def _vocabularies() -> dict[str, Make]:
    made = {kind: _json(partial(byte_level, kind)) for kind in ("qwen2", "llama3", "smollm")}
    for first in (True, False):
        order = "spaces first" if first else "spaces last"
        made[f"prepend, {order}"] = _json(partial(sentencepiece, first))
        made[f"no prefix, {order}"] = _json(partial(sentencepiece, first, prefix=False))
        for scheme in ("first", "always", "never"):
            made[f"metaspace {scheme}, {order}"] = _json(partial(sentencepiece, first, metaspace=scheme))
        made[f"metaspace first, words alone, {order}"] = _json(
            partial(sentencepiece, first, metaspace="first", split=True)
        )
        for prefix in (True, False):
            made[f"gguf, {'prefix' if prefix else 'no prefix'}, {order}"] = partial(gguf, first, prefix)
    return made


VOCABULARIES = _vocabularies()

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n\n' + m['content'] | trim"
    " + '<|im_end|>' }}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] + '</s>' }}"
    "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] + ' </s>' }}"
    "{% else %}{{ '<s>[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
