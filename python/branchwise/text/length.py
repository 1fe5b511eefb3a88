"""Whether a text could fit into a context at all: a few of its tokens tell, however long it is."""

from __future__ import annotations

from branchwise.errors import InputError
from branchwise.text.tokenizer import Tokenizer

_CHEAP = 8  # characters for each token of the context that are never looked at twice
_PIECE = 1 << 14  # characters
_MARGIN = 2  # cutting a text into pieces may add a token or two to each, and never doubles their number


def check_length(tokenizer: Tokenizer, text: str, context: int | None) -> None:
    """Raise InputError for a text that is far beyond the context, after reading about twice the context of it."""
    if context is None or len(text) <= max(_PIECE, _CHEAP * context):
        return
    tokens = 0
    for start in range(0, len(text), _PIECE):
        tokens += len(tokenizer.encode(text[start : start + _PIECE]))
        if tokens > _MARGIN * context + _PIECE:
            raise InputError(
                f"the text has {len(text):,} characters, the first {min(start + _PIECE, len(text)):,} of which are"
                f" {tokens:,} tokens already, and the model's context is {context:,}: shorten it"
            )
