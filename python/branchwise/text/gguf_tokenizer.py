"""Builds a `tokenizers.Tokenizer` from the vocabulary that a GGUF file carries in its metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from branchwise.errors import TokenizerError
from branchwise.text.surface import META_SPACE, Surface, byte_level, sentencepiece

END_TOKENS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
)
"""Tokens that end a turn in the chat formats of the supported families, whatever the file declares as its EOS."""


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type` of the GGUF specification."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How text is cut into words before merging: `patterns` are applied in turn, each to the pieces of the last."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False  # a word that is in the vocabulary is taken whole
    add_bos: bool = False  # when the file does not say


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Contractions are spelled out: a case-insensitive group would also match U+017F (long s).
_CL100K = (
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = PreTokenizer((_CL100K.replace("DIGITS", r"\p{N}"),))
_LLAMA3 = PreTokenizer((_CL100K.replace("DIGITS", r"\p{N}{1,3}"),), ignore_merges=True, add_bos=True)
_SINGLE_DIGITS = PreTokenizer((r"\p{N}", _GPT2))

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "default": PreTokenizer((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    "gpt-2": PreTokenizer((_GPT2,)),
    "olmo": PreTokenizer((_GPT2,)),
    "smollm": _SINGLE_DIGITS,
    "starcoder": _SINGLE_DIGITS,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
}


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """A vocabulary ready for use, and the settings its file leaves to convention when it is silent about them."""

    backend: Tokenizer
    surface: Surface
    silent: frozenset[int]  # ids without text: control, unknown and unused tokens
    tokens: list[str]
    bos_id: int | None
    eos_id: int | None
    add_bos: bool


def build_vocabulary(metadata: Mapping[str, Any]) -> GgufVocabulary:
    """Build the vocabulary described by the `tokenizer.ggml.*` keys.

    metadata: plain Python values; `tokenizer.ggml.tokens` [word] str, `.token_type` [word] int, `.scores` [word]
    float (SentencePiece), `.merges` [merge] "left right" (BPE).
    Raises TokenizerError for a missing or damaged array and for an unsupported model or pre-tokenizer.
    """
    model = metadata.get("tokenizer.ggml.model")
    builder = _BUILDERS.get(str(model))
    if builder is None:
        raise TokenizerError(
            f"tokenizer.ggml.model is {model!r}; supported are {', '.join(map(repr, _BUILDERS))}: "
            "use a model whose GGUF file has one of these, or its Hugging Face folder"
        )
    tokens = [token or f"[EMPTY_{id}]" for id, token in enumerate(_array(metadata, "tokens"))]
    types = _token_types(metadata, tokens)
    vocabulary = builder(metadata, tokens, types)
    special: dict[int, bool] = {TokenType.CONTROL: True, TokenType.UNKNOWN: True, TokenType.USER_DEFINED: False}
    vocabulary.backend.add_tokens(
        [
            AddedToken(token, normalized=False, special=special[kind])
            for token, kind in zip(tokens, types, strict=True)
            if kind in special
        ]
    )
    return vocabulary


def declared_id(metadata: Mapping[str, Any], name: str, tokens: list[str], default: int | None = None) -> int | None:
    """Id under `tokenizer.ggml.{name}_token_id`, `default` when the file does not say or says one out of range."""
    id = metadata.get(f"tokenizer.ggml.{name}_token_id", default)
    return int(id) if id is not None and 0 <= id < len(tokens) else default


def _build_byte_level(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> GgufVocabulary:
    """GPT-2 style BPE: words by regular expression, then merges by rank over the byte alphabet."""
    name = str(metadata.get("tokenizer.ggml.pre", "default"))
    pre = PRE_TOKENIZERS.get(name)
    if pre is None:
        raise TokenizerError(
            f"tokenizer.ggml.pre is {name!r}; supported are {', '.join(PRE_TOKENIZERS)}: "
            "use the model's Hugging Face folder, whose tokenizer.json says how to split words"
        )
    merges = _merges_by_rank(tokens, _array(metadata, "merges"))
    backend = _bpe(tokens, merges, ignore_merges=pre.ignore_merges)
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    return GgufVocabulary(backend, byte_level, _silent(types), tokens, None, None, pre.add_bos)


def _build_sentencepiece(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> GgufVocabulary:
    """SentencePiece: spaces become U+2581, neighbours merge while their union is a word, highest score first."""
    scores = _array(metadata, "scores", len(tokens))
    unknown = declared_id(metadata, "unknown", tokens, 0) or 0
    backend = _bpe(tokens, _merges_by_score(tokens, types, scores), byte_fallback=True, unk_token=tokens[unknown])
    to_meta = normalizers.Replace(" ", META_SPACE)
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(META_SPACE), to_meta] if prefix else [to_meta])
    return GgufVocabulary(backend, sentencepiece, _silent(types), tokens, 1, 2, True)


_BUILDERS: Mapping[str, Callable[[Mapping[str, Any], list[str], list[int]], GgufVocabulary]] = {
    "gpt2": _build_byte_level,
    "llama": _build_sentencepiece,
}


def _merges_by_rank(tokens: list[str], lines: Sequence[str]) -> list[tuple[str, str]]:
    words = set(tokens)
    merges = []
    for line in lines:
        left, _, right = line.partition(" ")
        if left not in words or right not in words or left + right not in words:
            raise TokenizerError(
                f"tokenizer.ggml.merges has {line!r}, which does not join two words of the vocabulary into a third: "
                "the file is damaged, download or convert it again"
            )
        merges.append((left, right))
    return merges


def _merges_by_score(tokens: list[str], types: list[int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Merge rules that pick the pair whose union has the highest score, as SentencePiece does without any rules.

    Every way to cut a word into two words is a rule. The cuts of one word tie in score; SentencePiece then takes the
    leftmost pair, which for runs of one character is the cut with the longest left part.
    """
    ordinary = [id for id, kind in enumerate(types) if kind == TokenType.NORMAL]
    words = {tokens[id] for id in ordinary}
    ordinary.sort(key=scores.__getitem__, reverse=True)
    return [
        (word[:cut], word[cut:])
        for word in (tokens[id] for id in ordinary)
        for cut in range(len(word) - 1, 0, -1)
        if word[:cut] in words and word[cut:] in words
    ]


def _bpe(tokens: list[str], merges: list[tuple[str, str]], **options: Any) -> Tokenizer:
    vocabulary = {token: id for id, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise TokenizerError(
            f"tokenizer.ggml.tokens has {len(tokens) - len(vocabulary)} repeated words; every word needs its own id: "
            "the file is damaged, download or convert it again"
        )
    return Tokenizer(models.BPE(vocabulary, merges, **options))


def _silent(types: list[int]) -> frozenset[int]:
    spoken = (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.BYTE)
    return frozenset(id for id, kind in enumerate(types) if kind not in spoken)


def _token_types(metadata: Mapping[str, Any], tokens: list[str]) -> list[int]:
    if "tokenizer.ggml.token_type" in metadata:
        types = list(_array(metadata, "token_type", len(tokens)))
    else:
        types = [int(TokenType.NORMAL)] * len(tokens)
    # Some conversions leave end-of-turn tokens as ordinary words; they would be printed and never stop a branch.
    ends = set(END_TOKENS)
    return [TokenType.CONTROL if token in ends else kind for token, kind in zip(tokens, types, strict=True)]


def _array(metadata: Mapping[str, Any], name: str, length: int | None = None) -> Sequence[Any]:
    values = metadata.get(f"tokenizer.ggml.{name}")
    if values is None or len(values) == 0 or length not in (None, len(values)):
        given = "missing" if values is None else f"{len(values)} long"
        raise TokenizerError(
            f"tokenizer.ggml.{name} is {given}, expected {length or 'at least one'} entries: "
            "the GGUF file is damaged or holds no vocabulary, download or convert it again"
        )
    return values  # type: ignore[no-any-return]
