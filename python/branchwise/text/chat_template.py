"""A model's chat template, rendered in a worker process: what it may cost is limited, whatever it does."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from branchwise.chat_options import ChatOptions
from branchwise.errors import InputError, TokenizerError
from branchwise.workers.host import Worker, WorkerFailure

LONGEST_TEMPLATE = 1 << 20  # characters; those of released models have some ten thousand at most
LONGEST_TEXT = 10_000_000  # characters that a template may add: more than any context holds
SECONDS = 5.0
MEMORY_BYTES = 512 << 20


class ChatTemplate:
    """One template and the special tokens that it may print.

    All templates share one worker process, which starts with the first rendering and ends with the last template.
    """

    def __init__(self, source: object, named_tokens: Mapping[str, str]) -> None:
        if not isinstance(source, str):
            raise TokenizerError(
                f"the chat template is a {type(source).__name__}, expected text: correct tokenizer_config.json"
            )
        if len(source) > LONGEST_TEMPLATE:
            raise TokenizerError(
                f"the chat template has {len(source):,} characters, at most {LONGEST_TEMPLATE:,} are read: "
                "it is damaged or hostile; use the files that came with the model"
            )
        self.source = source
        self.named_tokens = named_tokens
        self.probes: dict[tuple[bool, ChatOptions], str | None] = {}  # of `system_role`
        self._worker = _shared_worker()

    def render(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool, options: ChatOptions
    ) -> str:
        """The text of checked messages.

        Raises InputError for messages that the template refuses, TokenizerError for a template that is damaged,
        hostile, or without end.
        """
        given = {
            **self.named_tokens,
            "messages": messages,
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **options.extra,
        }
        longest = LONGEST_TEXT + sum(len(text) for message in messages for text in message.values())
        text: str = self._ask({"variables": given, "date": options.date, "longest": longest})["text"]
        return text

    def warm(self) -> None:
        """Start the worker, without waiting for it, while other things load."""
        self._worker.warm()

    @functools.cached_property
    def reads(self) -> frozenset[str]:
        """Names that it takes from outside. TokenizerError for a damaged one."""
        return frozenset(self._ask({})["reads"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            reply: dict[str, Any] = self._worker.ask({"template": self.source, **request})
        except WorkerFailure as failure:
            raise TokenizerError(f"the chat template {_FAILURES[str(failure)]}: do not use this model") from None
        for kind, message in reply.items():
            if kind in _ERRORS:
                error, words = _ERRORS[kind]
                raise error(words.format(message))
        return reply


_FAILURES = {
    "time": f"did not end within {SECONDS:g} seconds",
    "memory": f"wants more than {MEMORY_BYTES >> 20} MiB of memory",
    "died": "brought its process down",
}
_ERRORS: dict[str, tuple[type[InputError | TokenizerError], str]] = {
    "refused": (InputError, "the chat template refuses these messages: {}; change them"),
    "sandbox": (TokenizerError, "the chat template tries to leave its sandbox ({}): do not use this model"),
    "long": (TokenizerError, f"the chat template writes more than {LONGEST_TEXT:,} characters: do not use this model"),
    "syntax": (
        TokenizerError,
        "the chat template is not valid Jinja at {}: correct it, or pass the prompt as a string",
    ),
    "failed": (
        TokenizerError,
        "the chat template fails on these messages ({}): pass the prompt as a string, or correct the template",
    ),
}

_worker: weakref.ref[Worker] | None = None


def _shared_worker() -> Worker:
    """The one worker of all templates that live; it ends when the last of them goes."""
    global _worker
    worker = None if _worker is None else _worker()
    if worker is None:
        task = Path(__file__).with_name("template_task.py")
        worker = Worker(task, "jinja2", seconds=SECONDS, memory=MEMORY_BYTES)
        _worker = weakref.ref(worker)
    return worker
