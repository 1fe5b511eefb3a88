"""A text that cannot fit is refused before it costs anything; one that might fit is not."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwise.errors import InputError
from branchwise.pair.prompts import prompt_ids
from branchwise.text import length
from branchwise.text.chat import encode_prompt
from branchwise.text.length import check_length
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Problem
from text.templates import QWEN, USER
from text.test_chat import tokenizer
from text.vocabularies import CONFIG, VOCABULARIES

TEXTS = {"prose": "The answer is 42, and so on. ", "spaces": " ", "emoji": "😀👍🏽", "one letter": "x", "bytes": "\0é"}


@pytest.mark.parametrize("name", TEXTS)
def test_ten_megabytes_are_refused_at_once(name: str) -> None:
    made = tokenizer(QWEN)
    text = TEXTS[name] * (10_000_000 // len(TEXTS[name]))
    message = {"role": "user", "content": text}
    for prompt in (text, [message], [{"role": "system", "content": text}, USER], [{**USER, "name": text}, message]):
        begin = time.perf_counter()
        with pytest.raises(InputError, match=r"model's context is 2,048: shorten it"):
            encode_prompt(made, prompt, context=2048)
        assert time.perf_counter() - begin < 4.0


def test_a_million_messages() -> None:
    with pytest.raises(InputError, match="the prompt has 1,000,000 messages"):
        encode_prompt(tokenizer(QWEN), [USER] * 1_000_000, context=2048)


def test_little_memory() -> None:
    made, text = tokenizer(QWEN), "word " * 2_000_000
    tracemalloc.start()
    with pytest.raises(InputError, match="characters"):
        prompt_ids(made, Problem("p", text), "Think.", context=4096)
    assert tracemalloc.get_traced_memory()[1] < 60_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("name", TEXTS)
def test_what_fits_is_never_refused(name: str) -> None:
    made = tokenizer(None)
    text = TEXTS[name] * (60_000 // len(TEXTS[name]))
    check_length(made, text, len(made.encode(text)))
    check_length(made, text, None)


@given(st.text(alphabet="ab \n.é😀1", max_size=400), st.sampled_from(sorted(VOCABULARIES)))
@settings(max_examples=60)
def test_pieces_never_refuse_what_fits(text: str, name: str) -> None:
    """Even pieces of eight characters have less than twice the tokens of the whole."""
    made = Tokenizer.from_json(VOCABULARIES[name]().to_str(), CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(length, "_PIECE", 8)
        patch.setattr(length, "_CHEAP", 0)
        check_length(made, text, len(made.encode(text)))


def test_what_a_template_adds_counts() -> None:
    flood = tokenizer("{{ messages[0].content }}{% for i in range(300) %}{{ ' more and more' * 100 }}{% endfor %}")
    with pytest.raises(InputError, match=r"the text has 420,.* characters"):
        encode_prompt(flood, [USER], context=2048)
