"""The bytes a token stands for: the inverse of byte-level, SentencePiece and literal vocabularies."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from branchwise.errors import TokenizerError

Surface = Callable[[str], bytes]
"""Maps the text of a vocabulary entry to the UTF-8 bytes it adds to the output."""

META_SPACE = "▁"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_alphabet() -> dict[str, int]:
    """Character -> byte of byte-level BPE: printable Latin-1 stands for itself, the rest is moved up from U+0100."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    moved = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(moved)}


_BYTE_OF_CHARACTER = _byte_level_alphabet()


def byte_level(token: str) -> bytes:
    """Bytes of a byte-level BPE token; a token outside that alphabet is literal text."""
    try:
        return bytes([_BYTE_OF_CHARACTER[character] for character in token])
    except KeyError:
        return token.encode()


def sentencepiece(token: str) -> bytes:
    """Bytes of a SentencePiece token: `<0xXX>` is one byte and U+2581 is a space."""
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(META_SPACE, " ").encode()


def literal(token: str) -> bytes:
    """Bytes of a token that is its own text (character-level and word-level vocabularies)."""
    return token.encode()


def detect_surface(spec: Mapping[str, Any]) -> Surface:
    """Find how a `tokenizer.json` writes text into tokens, from its decoder, or its pre-tokenizer without one.

    Raises TokenizerError for decoders whose text depends on neighbouring tokens (WordPiece, CTC, suffix BPE).
    """
    decoders = list(_flatten(spec.get("decoder"), "decoders"))
    parts = decoders or list(_flatten(spec.get("pre_tokenizer"), "pretokenizers"))
    kinds = {part.get("type") for part in parts}
    if "ByteLevel" in kinds:
        return byte_level
    if "ByteFallback" in kinds or any(_turns_meta_into_space(part) for part in parts):
        return sentencepiece
    unknown = {part.get("type") for part in decoders} - {"Fuse"}
    if not unknown:
        return literal
    raise TokenizerError(
        f"tokenizer.json decodes with {', '.join(sorted(map(str, unknown)))}: the bytes of single tokens are not "
        "defined; use a tokenizer with a ByteLevel, Metaspace, ByteFallback or Fuse decoder, or none"
    )


def _flatten(part: Mapping[str, Any] | None, key: str) -> Iterator[Mapping[str, Any]]:
    if part is None:
        return
    if part.get("type") == "Sequence":
        for child in part[key]:
            yield from _flatten(child, key)
    else:
        yield part


def _turns_meta_into_space(part: Mapping[str, Any]) -> bool:
    if part.get("type") == "Metaspace":
        return part.get("replacement") == META_SPACE
    return part.get("type") == "Replace" and part.get("pattern") == {"String": META_SPACE}
