"""What a prompt has to be for a model, and how many tokens may come after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral

from branchwise.config import is_number
from branchwise.errors import InputError
from branchwise.types import Settings


def caps_beside(prompt: Sequence[int], settings: Settings, *, context: int, words: int, source: str) -> Settings:
    """The settings, with as many tokens of a solution as the context holds beside a prompt.

    words: of the vocabulary    InputError: the prompt is empty, fills the context, or holds what is no token
    """
    room = context - len(prompt)
    if not prompt:
        raise InputError("the prompt is empty: expected at least one token")
    for place, token in enumerate(prompt):
        if not is_number(Integral, token) or not 0 <= token < words:
            raise InputError(
                f"the prompt's token {place} is {token!r}: {source} has the token ids 0 to {words - 1}; take "
                "them from its own tokenizer"
            )
    if room < 1:
        raise InputError(f"the prompt has {len(prompt)} tokens, the model's context is {context}: shorten the prompt")
    return settings if settings.max_tokens <= room else replace(settings, max_tokens=room, limit="context")
