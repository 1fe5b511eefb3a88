"""Instructions reach models without a system role, and what a template drops is said."""

from __future__ import annotations

from typing import Any

import pytest

from branchwise.chat_options import ChatOptions
from branchwise.errors import InputError, TokenizerError
from branchwise.pair.prompts import prompt_ids
from branchwise.text.chat import encode_prompt, render_chat
from branchwise.text.system_role import heard, takes_system
from branchwise.types import Problem
from text.templates import ASSISTANT, DEAF, MISTRAL, R1, SYSTEM, TEMPLATES, USER
from text.test_chat import tokenizer

# Refuses a system role, as the first Gemma models do, in other words each.
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<model>"
FIRST_ONLY = (
    "{% for m in messages %}{% if not loop.first or m.role == 'user' %}<{{ m.role }}>{{ m.content }}{% endif %}"
    "{% endfor %}"
)
UNHEARD = {"refused": MISTRAL, "refused first": REFUSES + TURNS, "dropped": DEAF, "dropped first": FIRST_ONLY, "r1": R1}
R1_LATER = R1.replace("{{ ns.head }}", "{% if ns.head %}{{ '<system>' + ns.head }}{% endif %}")


@pytest.mark.parametrize("name", TEMPLATES)
def test_which_templates_take_a_system_message(name: str) -> None:
    template = tokenizer(TEMPLATES[name]).chat
    assert template is not None
    assert takes_system(template, ChatOptions()) == (name not in ("mistral", "deaf", "r1"))


@pytest.mark.parametrize("template", [*UNHEARD.values(), R1_LATER], ids=[*UNHEARD, "r1 with a system role"])
def test_the_instruction_becomes_part_of_the_first_user_turn(template: str) -> None:
    made = tokenizer(template)
    ids = prompt_ids(made, Problem("p", "1+1=?"), "Think step by step.")
    assert ids == encode_prompt(made, [{"role": "user", "content": "Think step by step.\n\n1+1=?"}])
    talk = [SYSTEM, USER, ASSISTANT, USER]
    folded = [{"role": "user", "content": SYSTEM["content"] + "\n\n" + USER["content"]}, ASSISTANT, USER]
    assert encode_prompt(made, talk) == encode_prompt(made, folded)
    assert talk == [SYSTEM, USER, ASSISTANT, USER]


def test_the_instruction_stays_a_system_message_where_there_is_one() -> None:
    made = tokenizer(TEMPLATES["qwen"])
    messages = [{"role": "system", "content": "Think."}, {"role": "user", "content": "1+1=?"}]
    assert prompt_ids(made, Problem("p", "1+1=?"), "Think.") == made.encode(render_chat(made, messages), special=True)


def test_formats_still_see_the_refusal() -> None:
    with pytest.raises(InputError, match="refuses these messages"):
        render_chat(tokenizer(MISTRAL), [SYSTEM, USER])


def test_what_cannot_be_folded_is_refused() -> None:
    with pytest.raises(InputError, match="Roles must alternate"):
        encode_prompt(tokenizer(MISTRAL), [SYSTEM, USER, USER])
    with pytest.raises(InputError, match="Only user and assistant roles"):
        encode_prompt(tokenizer(MISTRAL), [SYSTEM])
    with pytest.raises(InputError, match="Only user and assistant roles"):
        encode_prompt(tokenizer(MISTRAL), [USER, SYSTEM])


def test_later_system_messages_are_printed_or_missed() -> None:
    talk = [SYSTEM, USER, ASSISTANT, SYSTEM, USER]
    qwen = tokenizer(TEMPLATES["qwen"])
    assert encode_prompt(qwen, talk) == qwen.encode(render_chat(qwen, talk), special=True)
    late = [USER, {"role": "system", "content": "Be brief from now on."}, USER]
    for template in (DEAF, FIRST_ONLY.replace("not loop.first or m.role == 'user'", "loop.first or m.role == 'user'")):
        with pytest.raises(InputError, match="drops the system message at place 1"):
            encode_prompt(tokenizer(template), late)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}"
        "{% endfor %}{% endfor %}<model>",
        "{% for m in messages if m.role == 'human' %}{{ m.content }}{% endfor %}<model>",
        "Hello.",
    ],
)
@pytest.mark.parametrize("messages", [[USER], [SYSTEM, USER]])
def test_a_template_that_drops_the_question_is_said(template: str, messages: Any) -> None:
    with pytest.raises(TokenizerError, match="drops what the user says"):
        encode_prompt(tokenizer(template), messages)


def test_variables_may_decide() -> None:
    template = tokenizer("{% if persona %}{{ messages[0].content }}{% endif %}{{ messages[-1].content }}").chat
    assert template is not None
    assert len(heard(template, [SYSTEM, USER], ChatOptions())) == 1
    assert len(heard(template, [SYSTEM, USER], ChatOptions.make(None, {"persona": True}))) == 2
