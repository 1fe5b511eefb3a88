"""Chat templates render as in transformers, refuse what they should, and cannot leave the sandbox."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from branchwise.chat_options import ChatOptions
from branchwise.errors import ConfigError, InputError, TokenizerError
from branchwise.text.chat import check_options, encode_prompt, render_chat
from branchwise.text.tokenizer import Tokenizer
from text.gguf_metadata import read_metadata
from text.templates import ASSISTANT, CONVERSATIONS, GEMMA, LLAMA3, MISTRAL, QWEN, SYSTEM, TEMPLATES, USER, VARIABLES
from text.vocabularies import CONFIG, byte_level

SPEC = byte_level().to_str()
MODES = [(False, False), (True, False), (False, True)]
NAMED = {"bos_token": "<s>", "eos_token": "</s>"}
REAL = ["smollm2-135m-instruct-q4_1.gguf", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"]


def tokenizer(template: str | None, **config: Any) -> Tokenizer:
    return Tokenizer.from_json(SPEC, {**CONFIG, **config, "chat_template": template})


def compare(template: str, named: dict[str, str], variables: dict[str, Any] | None = None) -> set[bool]:
    """Render every conversation in every mode here and in transformers; returns which outcomes were seen."""
    variables = variables or {}
    options = ChatOptions.make("today", variables)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level(), chat_template=template, **named)
    ours = tokenizer(template)
    ours.named_tokens = named
    seen = set()
    for messages in CONVERSATIONS.values():
        for generation, open_end in MODES:
            flags = {"add_generation_prompt": generation, "continue_final_message": open_end, "options": options}
            try:
                expected = theirs.apply_chat_template(messages, tokenize=False, **flags, **variables)
            except Exception:  # of whatever kind: what they refuse must be refused here
                with pytest.raises((InputError, TokenizerError)):
                    render_chat(ours, messages, **flags)
                seen.add(False)
            else:
                assert render_chat(ours, messages, **flags) == expected
                seen.add(True)
    return seen


@pytest.mark.parametrize("family", TEMPLATES)
def test_equals_transformers(family: str) -> None:
    assert True in compare(TEMPLATES[family], NAMED)


@pytest.mark.parametrize("variables", VARIABLES)
@pytest.mark.parametrize("family", ["dated", "thinking"])
def test_variables_equal_transformers(family: str, variables: dict[str, Any]) -> None:
    assert compare(TEMPLATES[family], NAMED, variables) == {True}


@pytest.mark.parametrize("file", REAL)
def test_templates_of_real_models_equal_transformers(file: str, models_dir: Path) -> None:
    if not (models_dir / file).is_file():
        pytest.skip(f"{models_dir / file} is absent")
    metadata = read_metadata(models_dir / file)
    tokens = metadata["tokenizer.ggml.tokens"]
    named = {f"{name}_token": tokens[metadata[f"tokenizer.ggml.{name}_token_id"]] for name in ("bos", "eos")}
    assert compare(metadata["tokenizer.chat_template"], named) >= {True}


def test_rendered_text() -> None:
    assert render_chat(tokenizer(QWEN), [{"role": "user", "content": "Hi"}]) == (
        "<|im_start|>system\nYou are a careful solver.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    flags = {"add_generation_prompt": False, "continue_final_message": True}
    assert render_chat(tokenizer(QWEN), [SYSTEM, USER, ASSISTANT], **flags).endswith("assistant\nStep 1: compare.\n\n")
    trimmed = render_chat(tokenizer(GEMMA), [USER, ASSISTANT], **flags)
    assert trimmed.endswith("<start_of_turn>model\nStep 1: compare."), "a template that trims takes the blank line"


def test_empty_fields_are_left_out() -> None:
    template = tokenizer("{% for message in messages %}{{ message | tojson }}{% endfor %}")
    message: Any = {**USER, "name": None}
    assert render_chat(template, [message]) == render_chat(template, [USER])


def test_messages_are_not_changed() -> None:
    messages = [dict(USER), dict(ASSISTANT)]
    render_chat(tokenizer(QWEN), messages, add_generation_prompt=False, continue_final_message=True)
    assert messages == [USER, ASSISTANT]


def test_refused_roles() -> None:
    with pytest.raises(InputError, match="refuses these messages: Only user and assistant roles"):
        render_chat(tokenizer(MISTRAL), [SYSTEM, USER])
    with pytest.raises(InputError, match="Roles must alternate"):
        render_chat(tokenizer(MISTRAL), [USER, USER])


@pytest.mark.parametrize(
    ("template", "date", "text"),
    [
        ("{{ strftime_now('%d %b %Y') }}", None, "26 Jul 2024"),
        ("{{ strftime_now('%Y-%m-%d %H:%M') }}", "2026-11-30", "2026-11-30 00:00"),
        ("{{ date_string | default('26 Jul 2024') }}", None, "26 Jul 2024"),
        ("{{ date_string | default('26 Jul 2024') }}", "2026-05-01", "01 May 2026"),
        ("{% macro day() %}{{ strftime_now('%d') }}{% endmacro %}{{ day() }}", "2025-01-31", "31"),
        ("{% if strftime_now is defined %}known{% endif %}", None, "known"),
    ],
)
def test_the_date_is_fixed_unless_asked_for(template: str, date: str | None, text: str) -> None:
    assert render_chat(tokenizer(template), [USER], options=ChatOptions.make(date, None)) == text


def test_today() -> None:
    before = datetime.date.today()
    options = ChatOptions.make("today", None)
    rendered = render_chat(tokenizer("{{ strftime_now('%d %b %Y') }}"), [USER], options=options)
    assert rendered in {f"{day:%d %b %Y}" for day in (before, datetime.date.today())}


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__ }}",
        "{{ raise_exception.__globals__['__builtins__'] }}",
        "{{ (messages | map(attribute='__class__') | list)[0].mro() }}",
        "{{ strftime_now.__code__ }}",
        "{{ dict.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ messages.append({}) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ ('%s' % messages) .__class__ }}",
        "{% set x = namespace(__class__=1) %}{{ x.__class__ }}",
        "{% set x = namespace() %}{% set x.__dict__ = 1 %}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ range(10 ** 9) | length }}",
        "{{ lipsum.__globals__ }}",
        "{{ lipsum() }}",
        "{{ ['a', 'b'] | random }}",
        "{{ raise_exception }}",
        "{{ messages | map('upper') }}",
        "{{ joiner(', ') }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_hostile_templates(template: str) -> None:
    with pytest.raises(TokenizerError, match="chat template"):
        render_chat(tokenizer(template), [USER])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template: pass the prompt as a string"),
        ("{% if %}", "not valid Jinja at line 1"),
        ("\n{{ messages | nofilter }}", "not valid Jinja at line 2"),
        ("{{ messages[0].content + 1 }}", "fails on these messages"),
        ("{{ nothing.here }}", "fails on these messages"),
        ("{{ 1 / 0 }}", "fails on these messages"),
        ("{{ nothing | tojson }}", "fails on these messages"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "fails on these messages"),
        ("{% for i in [1] %}" * 30 + "{% endfor %}" * 30, "fails on these messages .*nested"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "chat template"),
        ("{{ " + "not " * 50_000 + "1 }}", "chat template"),
        ("{{ strftime_now(3) }}", "fails on these messages"),
        (" " * 2_000_000, "2,000,000 characters"),
        (7, "is a int, expected text"),
    ],
)
def test_damaged_templates(template: str | None, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        render_chat(tokenizer(template), [USER])


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "no messages"),
        (["Hi"], "message 0 is 'Hi', expected a dict"),
        ([USER, {"role": "user"}], "message 1"),
        ([{**USER, "tool_calls": [{}]}], "dict of strings"),
        ([{"role": "user", "content": None}], "dict of strings with 'role' and 'content'"),
        ([USER, {"role": "user", "content": "a\ud800"}], "'content' of message 1 has a lone surrogate at index 1"),
        ([{**USER, "name": "\udfff"}], "'name' of message 0 has a lone surrogate"),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}]}], "dict of strings"),
    ],
)
def test_malformed_messages(messages: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        render_chat(tokenizer(QWEN), messages)


def test_open_ends_that_cannot_work() -> None:
    with pytest.raises(InputError, match="exclude each other"):
        render_chat(tokenizer(QWEN), [USER], continue_final_message=True)
    for template in ("constant", "{{ messages[0].content }}", "{{ messages[-1].content | reverse }}"):
        with pytest.raises(InputError, match="cannot be continued"):
            render_chat(
                tokenizer(template), [USER, ASSISTANT], add_generation_prompt=False, continue_final_message=True
            )


def test_prompts() -> None:
    plain = tokenizer(LLAMA3)
    with_bos = tokenizer(LLAMA3, add_bos_token=True)
    text = plain.encode("Hi", special=True)
    assert encode_prompt(plain, "Hi") == text
    assert encode_prompt(with_bos, "Hi") == encode_prompt(with_bos, "<s>Hi") == [1, *text]
    assert encode_prompt(with_bos, "") == [1]
    rendered = render_chat(with_bos, [USER])
    assert encode_prompt(with_bos, [USER]) == with_bos.encode(rendered, special=True)
    assert encode_prompt(with_bos, [USER]).count(1) == 1
    opened = render_chat(plain, [USER, ASSISTANT], add_generation_prompt=False, continue_final_message=True)
    assert encode_prompt(plain, [USER, ASSISTANT]) == plain.encode(opened, special=True)
    assert encode_prompt(plain, (5, 6, 7)) == [5, 6, 7]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "prompt is empty"),
        ([], "prompt is empty"),
        ([1, -2], "negative token id -2"),
        ([1, "x"], "expected a string, a list of messages or a list of token ids"),
        ([1.5], "expected a string"),
        ([True, 5], "expected a string, a list of messages or a list of token ids"),
        ([USER, 3], "message 1"),
        ([{**USER, 1: "x"}], "message 0 .*expected a dict of strings"),
        ([{**USER, ("a",): "x"}], "message 0 .*expected a dict of strings"),
        (USER, "expected a string, a list of messages"),
        ({}, "expected a string, a list of messages"),
        (b"abc", "expected a string, a list of messages"),
        ({1, 2}, "expected a string, a list of messages"),
        (5, "the prompt is '5', expected a string"),
        ((message for message in [USER]), "expected a string, a list of messages"),
    ],
)
def test_malformed_prompts(prompt: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encode_prompt(tokenizer(QWEN), prompt)


def test_variables_that_the_template_never_reads() -> None:
    thinking = tokenizer(TEMPLATES["thinking"])
    check_options(thinking, ChatOptions.make(None, {"enable_thinking": False, "reasoning_effort": "low"}))
    with pytest.raises(ConfigError, match=r"never reads the variable 'enable_thinkin'; it reads .*enable_thinking"):
        check_options(thinking, ChatOptions.make(None, {"enable_thinkin": False}))
    check_options(tokenizer(TEMPLATES["dated"]), ChatOptions.make(None, {"date_string": "today"}))
    check_options(tokenizer(None), ChatOptions.make("today", None))
    with pytest.raises(ConfigError, match="no chat template, which could read x"):
        check_options(tokenizer(None), ChatOptions.make(None, {"x": 1}))


def test_variables_reach_the_prompt() -> None:
    made = tokenizer(TEMPLATES["thinking"])
    off = ChatOptions.make(None, {"enable_thinking": False})
    assert render_chat(made, [USER], options=off).endswith("<think>\n\n</think>\n\n")
    assert not render_chat(made, [USER]).endswith("</think>\n\n")
    assert encode_prompt(made, [USER], off) == made.encode(render_chat(made, [USER], options=off), special=True)
