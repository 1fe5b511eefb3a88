"""Chat templates that never end, write without end or fill memory: refused in time, and the next prompt works."""

from __future__ import annotations

import time
from typing import Any

import pytest

from branchwise.chat_options import ChatOptions
from branchwise.errors import TokenizerError
from branchwise.text import chat_template
from branchwise.text.chat import check_options, render_chat
from branchwise.text.chat_template import ChatTemplate
from text.templates import QWEN, USER
from text.test_chat import tokenizer

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
ENDS = "{% endfor %}" * 3
ENDLESS = {
    "three loops": LOOPS + ENDS,
    "power": "{{ 10 ** (10 ** 10) }}",
    "two calls of itself": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "recursive loop": "{% for x in [50] recursive %}{% if x %}{{ loop([x - 1, x - 1]) }}{% endif %}{% endfor %}",
}
HUGE = {
    "centred": "{{ 'x' | center(10 ** 9) }}",
    "repeated": "{{ 'x' * 10 ** 9 }}",
    "list": "{{ ([0] * 10 ** 9) | length }}",
    "join": "{{ range(99999) | join('x' * 99999) }}",
    "replace": "{{ ('x' * 99999).replace('x', 'y' * 99999) }}",
    "format": "{{ '%999999999d' | format(1) }}",
    "format method": "{{ '{:999999999}'.format(1) }}",
    "justified": "{{ messages[0].content.ljust(10 ** 9) }}",
    "doubled": "{% set n = namespace(s='xx') %}{% for i in range(40) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "set block": "{% set s %}{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}{% endset %}{{ s }}",
    "json": "{{ [0, 0] | tojson(indent=10 ** 9) }}",
    "batches": "{{ range(99999) | batch(10 ** 9, 'x') | list | length }}",
}
LONG = {
    "fifty megabytes": "{% for i in range(50) %}{{ 'x' * 10 ** 6 }}{% endfor %}",
    "one piece": "{{ 'x' * 20_000_000 }}",
    "the question over and over": LOOPS + "{{ messages[0].content }}" + ENDS,
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same limit as for users, in less time: a worker of its own."""
    monkeypatch.setattr(chat_template, "SECONDS", 0.8)
    monkeypatch.setattr(chat_template, "_worker", None)


def refused(template: str, message: str) -> None:
    begin = time.perf_counter()
    with pytest.raises(TokenizerError, match=message):
        render_chat(tokenizer(template), [USER])
    assert time.perf_counter() - begin < 30.0
    assert "é" in render_chat(tokenizer(QWEN), [USER])


@pytest.mark.parametrize("name", ENDLESS)
def test_without_end(name: str, impatient: None) -> None:
    refused(ENDLESS[name], "chat template did not end within .* seconds: do not use this model")


@pytest.mark.parametrize("name", HUGE)
def test_memory(name: str) -> None:
    refused(HUGE[name], r"chat template (wants more than 512 MiB|writes more than|fails on|brought its|did not end)")


@pytest.mark.parametrize("name", LONG)
def test_output(name: str) -> None:
    refused(LONG[name], "writes more than 10,000,000 characters")


def test_deep_recursion() -> None:
    calls = "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}"
    refused(calls, "fails on these messages .*recursion")


def test_a_long_prompt_is_no_bomb() -> None:
    message: Any = {"role": "user", "content": "a long story, " * 100_000}
    assert message["content"] in render_chat(tokenizer(QWEN), [message])


def test_names_of_a_hostile_template() -> None:
    options = ChatOptions.make(None, {"x": 1})
    with pytest.raises(TokenizerError, match="chat template"):
        check_options(tokenizer("{{ " + "(" * 100_000 + " }}"), options)


def test_worker_goes_with_the_last_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "_worker", None)
    first, second = ChatTemplate("{{ messages | length }}", {}), ChatTemplate("", {})
    assert first._worker is second._worker
    assert first.render([USER], add_generation_prompt=False, options=ChatOptions()) == "1"
    worker = first._worker
    assert worker.pid is not None
    del first, second, worker
    assert chat_template._worker() is None
