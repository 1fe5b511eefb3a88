"""Final answers as solutions state them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwise.answers.extract import extract_answer

STATED = [
    (r"so \boxed{42}", "42"),
    (r"$\boxed{\frac{1}{2}}$ done", r"\frac{1}{2}"),
    (r"\boxed{1} no, \boxed{2}", "2"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{\boxed{7}}", "7"),
    (r"\boxed{7} and then \boxed{", "7"),
    (r"\boxed{7} and \boxed{}", "7"),
    (r"\boxed{ 7 \text{ cm} }", r"7 \text{ cm}"),
    (r"\fbox{3}", "3"),
    (r"thus $\boxed 8$.", "8"),
    ("The answer is 5.", "5"),
    ("The answer is 3.5. So there.", "3.5"),
    ("The answer is $5.", "$5"),
    ("the answer is 5 because it is", "5"),
    ("The final answer is: $x+1$. I hope it is correct.", "x+1"),
    (r"The answer is \(\frac{a}{b}\), as shown", r"\frac{a}{b}"),
    ("**Answer:** 7", "7"),
    ("The answer is **42**.", "42"),
    ("the answer is 4.\nNo: the answer is 6.", "6"),
    ("The answer is\n\n12", "12"),
    ("She sells 9.\n#### 18", "18"),
    ("#### 1,234\n", "1,234"),
    (r"the answer is 3, that is \boxed{4}", "4"),  # a box beats a sentence
    ("the answer is 3\n#### 4", "3"),  # a sentence beats hashes
]


@pytest.mark.parametrize(("text", "answer"), STATED)
def test_stated_answer(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize("text", ["", "3 + 4 = 7", r"\boxed{3", r"\boxed{}", "####", "The answer is", r"\boxedx{3}"])
def test_no_answer(text: str) -> None:
    assert extract_answer(text) is None


def test_last_number_only_when_asked() -> None:
    assert extract_answer("then 3 + 4 = 1,007.", last_number=True) == "1,007"
    assert extract_answer("then -2.5 remains", last_number=True) == "-2.5"
    assert extract_answer(r"3 then \boxed{4} then 5", last_number=True) == "4"
    assert extract_answer("nothing", last_number=True) is None


@st.composite
def balanced(draw: st.DrawFn) -> str:
    leaf = st.text(alphabet="ab1+ ", min_size=1, max_size=4).filter(
        lambda text: not text.strip() or text.strip(" +") != ""
    )
    return draw(
        st.recursive(
            leaf,
            lambda inner: st.lists(inner, min_size=1, max_size=3).map(
                lambda parts: "".join(f"{{{part}}}" for part in parts) + "x"
            ),
            max_leaves=8,
        )
    )


@given(balanced(), st.text(alphabet="abc {}\\.", max_size=20))
def test_any_balanced_content_survives_any_prefix(content: str, prefix: str) -> None:
    found = extract_answer(f"{prefix} \\boxed{{{content}}} end")
    assert found == (content.strip() or None)


@given(st.text(max_size=200))
def test_never_empty_and_never_padded(text: str) -> None:
    answer = extract_answer(text, last_number=True)
    assert answer is None or (answer and answer == answer.strip())


@pytest.mark.parametrize(
    "piece", [r"\boxed{", "{", "the answer is ", "answer", "answer \n\n\n", "####", "$", r"\(", "\\"]
)
def test_time_is_linear_in_repetitions(piece: str) -> None:
    begin = time.perf_counter()
    extract_answer(piece * 20_000)
    assert time.perf_counter() - begin < 5.0
