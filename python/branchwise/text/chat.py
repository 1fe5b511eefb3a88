"""Turns chat messages into prompt text with the model's own template, and prompts into token ids."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence, Set
from typing import Any

from branchwise.chat_options import NO_OPTIONS, ChatOptions
from branchwise.errors import ConfigError, InputError, TokenizerError
from branchwise.text.chat_template import ChatTemplate
from branchwise.text.length import check_length
from branchwise.text.system_role import check_heard, heard
from branchwise.text.tokenizer import Tokenizer
from branchwise.text.user_text import encode_guarded, guarded_messages
from branchwise.types import Message

_CONTINUE_MARK = "ThisMessageGoesOn "  # its space shows whether the template trims messages


def render_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    options: ChatOptions = NO_OPTIONS,
) -> str:
    """Prompt text of `messages`, equal to `apply_chat_template(..., tokenize=False)` of transformers.

    messages: dicts with `role` and `content`. `continue_final_message` leaves the last message open, for the model to
    go on with it; it excludes `add_generation_prompt`. options: the date and the variables that the template gets.
    Raises InputError for messages that are malformed or that the template refuses, TokenizerError for a template that
    is missing, damaged, hostile or without end.
    """
    template = _template(tokenizer)
    chat = _checked(messages)
    if continue_final_message:
        if add_generation_prompt:
            raise InputError(
                "add_generation_prompt and continue_final_message are both set: "
                "a new assistant turn and an open last message exclude each other, set one to False"
            )
        return _render_open_end(template, chat, options)
    return template.render(chat, add_generation_prompt=add_generation_prompt, options=options)


def encode_prompt(
    tokenizer: Tokenizer,
    prompt: str | Sequence[Message] | Sequence[int],
    options: ChatOptions = NO_OPTIONS,
    context: int | None = None,
) -> list[int]:
    """Token ids of a prompt: a string, chat messages or ids.

    A string may write out special tokens and gets the BOS token where the model wants one. Messages go through the
    chat template, whose special tokens are read and theirs are not; when the last one is from the assistant, the model
    continues it. A system message that the template refuses or drops becomes part of the first user turn. Ids are taken
    as they are.
    context: tokens that the model can see; what could never fit is refused before it costs anything
    Raises InputError for an empty or malformed prompt.
    """
    if not hasattr(prompt, "__len__") or isinstance(prompt, bytes | bytearray | Mapping | Set):
        raise _no_prompt(prompt)
    if isinstance(prompt, str):
        check_length(tokenizer, prompt, context)
        ids = tokenizer.encode(prompt, special=True)
        bos = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
        ids = ids if ids[:1] == bos else bos + ids
    elif len(prompt) > 0 and isinstance(prompt[0], Mapping):
        if context is not None and len(prompt) > context:
            raise InputError(f"the prompt has {len(prompt):,} messages, the model's context is {context:,} tokens")
        template, messages = _template(tokenizer), _checked(prompt)  # type: ignore[arg-type]
        check_length(tokenizer, "".join(text for message in messages for text in message.values()), context)
        messages = heard(template, guarded_messages(tokenizer, messages), options)
        is_open = messages[-1]["role"] == "assistant"
        text = render_chat(
            tokenizer, messages, add_generation_prompt=not is_open, continue_final_message=is_open, options=options
        )
        check_length(tokenizer, text, context)
        check_heard(messages, text)
        ids = encode_guarded(tokenizer, text)
    else:
        ids = _checked_ids(prompt)
    if not ids:
        raise InputError("the prompt is empty: give a string, chat messages or token ids")
    return ids


def check_options(tokenizer: Tokenizer, options: ChatOptions) -> None:
    """Raise ConfigError for a variable that the model's chat template never reads; the template's worker gets ready."""
    if tokenizer.chat is not None:
        tokenizer.chat.warm()
    if not options.variables:
        return
    if tokenizer.chat_template is None:
        raise ConfigError(f"this model has no chat template, which could read {', '.join(options.variables)}")
    reads = _template(tokenizer).reads
    for name in options.variables:
        if name not in reads:
            raise ConfigError(
                f"this model's chat template never reads the variable {name!r}; it reads {', '.join(sorted(reads))}"
            )


def _template(tokenizer: Tokenizer) -> ChatTemplate:
    if tokenizer.chat is None:
        raise TokenizerError(
            "this model has no chat template: pass the prompt as a string, or use an instruction-tuned model"
        )
    return tokenizer.chat


def _render_open_end(template: ChatTemplate, chat: list[dict[str, str]], options: ChatOptions) -> str:
    """Render with a mark at the end of the last message and cut there, so what closes a turn is left out."""
    content = chat[-1]["content"]
    marked = [*chat[:-1], {**chat[-1], "content": content + _CONTINUE_MARK}]
    text = template.render(marked, add_generation_prompt=False, options=options)
    at = text.rfind(_CONTINUE_MARK.strip())
    if at < 0 or content.strip() not in text:
        raise InputError(
            f"the chat template drops or changes the last message {content[:80]!r}, so it cannot be continued: "
            "end with a complete message and set continue_final_message=False"
        )
    # A template that trims messages took the mark's space, and would have taken the message's own.
    return text[:at] if text.startswith(_CONTINUE_MARK, at) else text[:at].rstrip()


def _checked(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Own plain copies of the messages, so a template sees strings and dicts only."""
    if len(messages) == 0:
        raise InputError("there are no messages: give at least one dict with 'role' and 'content'")
    chat = []
    for index, message in enumerate(messages):
        entries = message.items() if isinstance(message, Mapping) else ()
        fields = {name: value for name, value in entries if value is not None}
        words = [*fields, *fields.values()]
        if not {"role", "content"} <= fields.keys() or not all(isinstance(word, str) for word in words):
            raise InputError(
                f"message {index} is {str(message)[:80]!r}, expected a dict of strings with 'role' and 'content'"
            )
        for name, value in fields.items():
            _check_unicode(value, f"{name!r} of message {index}")
        chat.append(fields)
    return chat


def _check_unicode(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} has a lone surrogate at index {error.start}, expected valid Unicode: "
            "decode the source with errors='replace'"
        ) from None


def _checked_ids(prompt: Sequence[Any]) -> list[int]:
    try:
        ids = [operator.index(id) for id in prompt]
    except TypeError:
        raise _no_prompt(prompt) from None
    if any(isinstance(id, bool) for id in prompt):
        raise _no_prompt(prompt)
    if min(ids, default=0) < 0:
        raise InputError(f"the prompt has the negative token id {min(ids)}: token ids start at 0")
    return ids


def _no_prompt(given: object) -> InputError:
    return InputError(
        f"the prompt is {str(given)[:80]!r}, expected a string, a list of messages or a list of token ids"
    )
