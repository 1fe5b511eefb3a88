"""System messages for models that have no system role: part of the first user turn, instead of lost or refused."""

from __future__ import annotations

from branchwise.chat_options import ChatOptions
from branchwise.errors import InputError, TokenizerError
from branchwise.text.chat_template import ChatTemplate

_SYSTEM = {"role": "system", "content": "ThisIsTheSystemMessage"}
_USER = {"role": "user", "content": "ThisIsTheQuestion"}
_R1 = ("<｜User｜>", "</think>")  # noqa: RUF001 - the token is written so


def heard(template: ChatTemplate, messages: list[dict[str, str]], options: ChatOptions) -> list[dict[str, str]]:
    """The messages, with a system message at their head moved into the first user turn where it would not be heard.

    Raises TokenizerError for a template that drops what the user says.
    """
    roles = [message["role"] for message in messages]
    if "user" not in roles:
        return messages
    if roles[0] == "system" and not takes_system(template, options):
        first = roles.index("user")
        turn = messages[first]
        folded = {**turn, "content": f"{messages[0]['content']}\n\n{turn['content']}"}
        messages = [*messages[1:first], folded, *messages[first + 1 :]]
    alone = _probe(template, options, system=False)
    if alone is not None and _USER["content"] not in alone:
        raise TokenizerError(
            "the chat template drops what the user says (one for images may expect lists of parts): pass the prompt as"
            " a string, or use the template of a text model"
        )
    return messages


def check_heard(messages: list[dict[str, str]], text: str) -> None:
    """Raise InputError for a system message in mid-talk that a template dropped: `heard` moves only the first."""
    for index, message in enumerate(messages):
        if index and message["role"] == "system" and message["content"].strip() not in text:
            raise InputError(
                f"the chat template drops the system message at place {index}: put its text into a user turn, or first"
            )


def takes_system(template: ChatTemplate, options: ChatOptions) -> bool:
    """Whether a system message reaches the model. Those distilled from R1 print it, but were not trained with one."""
    if all(mark in template.source for mark in _R1):
        return False
    text = _probe(template, options, system=True)
    return text is not None and _SYSTEM["content"] in text


def _probe(template: ChatTemplate, options: ChatOptions, *, system: bool) -> str | None:
    """What becomes of a question, None where the template refuses it; asked once."""
    if (system, options) not in template.probes:
        messages = [_SYSTEM, _USER] if system else [_USER]
        try:
            text = template.render(messages, add_generation_prompt=True, options=options)
        except InputError:
            text = None
        template.probes[system, options] = text
    return template.probes[system, options]
