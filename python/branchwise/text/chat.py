"""Turns chat messages into prompt text with the model's own Jinja template, in a sandbox."""

from __future__ import annotations

import datetime
import functools
import json
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from branchwise.errors import InputError, TokenizerError
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Message

_CONTINUE_MARK = "ThisMessageGoesOn "  # its space shows whether the template trims messages


def render_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
) -> str:
    """Prompt text of `messages`, equal to `apply_chat_template(..., tokenize=False)` of transformers.

    messages: dicts with `role` and `content`. `continue_final_message` leaves the last message open, for the model to
    go on with it; it excludes `add_generation_prompt`.
    Raises InputError for messages that are malformed or that the template refuses, TokenizerError for a template that
    is missing, damaged or hostile.
    """
    if tokenizer.chat_template is None:
        raise TokenizerError(
            "this model has no chat template: pass the prompt as a string, or use an instruction-tuned model"
        )
    chat = _checked(messages)
    if continue_final_message:
        if add_generation_prompt:
            raise InputError(
                "add_generation_prompt and continue_final_message are both set: "
                "a new assistant turn and an open last message exclude each other, set one to False"
            )
        return _render_open_end(tokenizer, chat)
    return _render(tokenizer, chat, add_generation_prompt)


def encode_prompt(tokenizer: Tokenizer, prompt: str | Sequence[Message] | Sequence[int]) -> list[int]:
    """Token ids of a prompt: a string, chat messages or ids.

    A string may write out special tokens and gets the BOS token where the model wants one. Messages go through the
    chat template; when the last one is from the assistant, the model continues it. Ids are taken as they are.
    Raises InputError for an empty or malformed prompt.
    """
    if isinstance(prompt, str):
        ids = tokenizer.encode(prompt, special=True)
        bos = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
        ids = ids if ids[:1] == bos else bos + ids
    elif len(prompt) > 0 and isinstance(prompt[0], Mapping):
        messages: Sequence[Message] = prompt  # type: ignore[assignment]
        is_open = _checked(messages)[-1]["role"] == "assistant"
        text = render_chat(tokenizer, messages, add_generation_prompt=not is_open, continue_final_message=is_open)
        ids = tokenizer.encode(text, special=True)
    else:
        ids = _checked_ids(prompt)
    if not ids:
        raise InputError("the prompt is empty: give a string, chat messages or token ids")
    return ids


def _render_open_end(tokenizer: Tokenizer, chat: list[dict[str, str]]) -> str:
    """Render with a mark at the end of the last message and cut there, so what closes a turn is left out."""
    content = chat[-1]["content"]
    marked = [*chat[:-1], {**chat[-1], "content": content + _CONTINUE_MARK}]
    text = _render(tokenizer, marked, add_generation_prompt=False)
    at = text.rfind(_CONTINUE_MARK.strip())
    if at < 0 or content.strip() not in text:
        raise InputError(
            f"the chat template drops or changes the last message {content[:80]!r}, so it cannot be continued: "
            "end with a complete message and set continue_final_message=False"
        )
    # A template that trims messages took the mark's space, and would have taken the message's own.
    return text[:at] if text.startswith(_CONTINUE_MARK, at) else text[:at].rstrip()


def _render(tokenizer: Tokenizer, chat: list[dict[str, str]], add_generation_prompt: bool) -> str:
    template = _compile(tokenizer.chat_template or "")
    try:
        return template.render(
            messages=chat,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **tokenizer.named_tokens,
        )
    except _Refused as error:
        raise InputError(f"the chat template refuses these messages: {error.message}; change them") from None
    except SecurityError as error:
        raise TokenizerError(
            f"the chat template tries to leave its sandbox ({error.message}): do not use this model"
        ) from None
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise TokenizerError(
            f"the chat template fails on these messages ({error}): pass the prompt as a string, or correct the template"
        ) from error


@functools.lru_cache(maxsize=8)
def _compile(source: str) -> jinja2.Template:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, LoopControlExtension])
    environment.filters["tojson"] = _to_json
    environment.globals.pop("lipsum")
    environment.globals.update(
        raise_exception=_refuse, strftime_now=_strftime_now, dict=_make_dict, namespace=_TemplateNamespace
    )
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise TokenizerError(
            f"the chat template is not valid Jinja at line {error.lineno} ({error.message}): correct it, or pass "
            "the prompt as a string"
        ) from None


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which also refuses to print a forbidden attribute instead of printing nothing."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"attribute {attribute!r} of a {type(obj).__name__}")


class _Refused(jinja2.TemplateError):
    """Raised by a template's own `raise_exception`."""


class _GenerationTag(Extension):
    """Accepts `{% generation %}`, which marks assistant text for training, and renders its body."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call block gives the body a scope of its own, as where the tag is used for training.
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Any) -> str:
        return str(caller())


class _TemplateNamespace(Namespace):
    """Jinja's namespace without names that begin with an underscore, which reach into the interpreter."""

    def __init__(*args: Any, **attributes: Any) -> None:
        for name in dict(*args[1:], **attributes):
            _refuse_private(name)
        Namespace.__init__(*args, **attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"namespace attribute {name!r}")


def _refuse(message: object) -> NoReturn:
    raise _Refused(str(message))


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which models are not trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _checked(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Own plain copies of the messages, so a template sees strings and dicts only."""
    if len(messages) == 0:
        raise InputError("there are no messages: give at least one dict with 'role' and 'content'")
    chat = []
    for index, message in enumerate(messages):
        entries = message.items() if isinstance(message, Mapping) else ()
        fields = {name: value for name, value in entries if value is not None}
        if not {"role", "content"} <= fields.keys() or not all(isinstance(value, str) for value in fields.values()):
            raise InputError(
                f"message {index} is {str(message)[:80]!r}, expected a dict of strings with 'role' and 'content'"
            )
        chat.append(fields)
    return chat


def _checked_ids(prompt: Sequence[Any]) -> list[int]:
    try:
        ids = [operator.index(id) for id in prompt]
    except TypeError:
        raise InputError(
            f"the prompt is {str(prompt)[:80]!r}, expected a string, a list of messages or a list of token ids"
        ) from None
    if min(ids, default=0) < 0:
        raise InputError(f"the prompt has the negative token id {min(ids)}: token ids start at 0")
    return ids
