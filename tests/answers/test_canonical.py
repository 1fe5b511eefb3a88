"""Equal answers share a form; different answers do not."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwise.answers.canonical import MAX_LENGTH, canonical

EQUAL = [
    (r"\frac{1}{2}", "0.50", "1/2", ".5", "$0.5$", r"\dfrac12", r"\tfrac{1}{2}", r"\frac{2}{4}", r"\boxed{0.5}"),
    ("1234", "1,234", "1{,}234", r"1,\!234", r"1\,234", "1234.0", r"\$1,234.00", "1.234e3", r"1.234 \times 10^{3}"),
    ("5", "+5", "5.", "5.0", "x = 5", "5 cm", "5 cm^2", r"5 \text{ apples}", r"5\text{ cm}^2", "5 dollars", "**5**"),
    ("50", "50%", r"50\%", r"50^\circ", r"50^{\circ}", "50°", "50 degrees"),
    ("3/2", r"1\frac{1}{2}", "1 1/2", "1.5"),
    ("-5", r"-\$5", "\N{MINUS SIGN}5", r"\(-5\)"),
    ("0", "-0", "0.00", "0/7"),
    ("(1, 0.5)", r"\left( 1, \frac{1}{2} \right)", "(1,1/2)"),
    (r"\{1, 2\}", r"\{2,1\}", r"\left\{ 2, 1 \right\}"),
    ("[0, 1)", r"x \in [0,1)", r"\left[0,1\right)"),
    ("C", "(C)", r"\text{(C)}", r"\text{C}", "C."),
    ("Monday", r"\text{Monday}", "monday."),
    (r"\sqrt{2}", r"\sqrt2", r"$\sqrt{2}$"),
    (r"x \leq 5", r"x\le5"),
    (r"2x + 3", "2x+3", "y = 2x + 3"),
]
DIFFERENT = [
    ("5", "6"), ("5", "-5"), ("5", r"5\text{ million}"), ("5", "5 million"), ("34", "3 4"), ("21/2", "2 1/2"),
    ("1234", "1, 234"), ("(1,234)", "1234"), ("(1,2)", "(2,1)"), ("[0,1)", "[0,1]"), ("(1,2)", r"\{1,2\}"),
    ("50", "1/2"), (r"2\pi", "2"), ("x", "X"), ("2xy", "2"), ("10:30 am", "10:30 pm"), ("1/0", "0"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}12\end{pmatrix}"), ("1e400", "1e401"), ("", "0"),
]  # fmt: skip


@pytest.mark.parametrize("forms", EQUAL, ids=lambda forms: forms[0])
def test_equal_answers_share_a_form(forms: tuple[str, ...]) -> None:
    assert {canonical(form) for form in forms} == {canonical(forms[0])}


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_answers_do_not(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


def test_classes_of_the_table_are_distinct() -> None:
    assert len({canonical(forms[0]) for forms in EQUAL}) == len(EQUAL)


decimals = st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9)


@given(decimals)
def test_every_way_to_write_a_decimal(value: object) -> None:
    number = Fraction(str(value))
    form = str(number)
    sign = "-" if number < 0 else ""
    ways = [f"{value}", f"{value:,}", f"${value}$", f"{value} \\text{{ km}}", f"{value}0", f"\\${value}",
            f"{number.numerator}/{number.denominator}",
            f"{sign}\\frac{{{abs(number.numerator)}}}{{{number.denominator}}}"]  # fmt: skip
    assert {canonical(way) for way in ways} == {form}


@given(st.fractions(max_denominator=1000), st.fractions(max_denominator=1000))
def test_numbers_share_a_form_exactly_when_equal(one: Fraction, other: Fraction) -> None:
    def tex(value: Fraction) -> str:
        return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"

    assert (canonical(tex(one)) == canonical(str(other))) == (one == other)


@given(
    st.lists(
        st.sampled_from(["1", "0.5", r"\frac{1}{2}", "x", "(1,2)", r"\pi", "-3", r"\{2,1\}"]), min_size=2, max_size=12
    )
)
def test_lists_are_treated_item_by_item(items: list[str]) -> None:
    forms = [rf"\{{{canonical(item)}\}}" if item == r"\{2,1\}" else canonical(item) for item in items]
    assert canonical("(" + " , ".join(items) + ")") == "(" + ",".join(forms) + ")"


@given(st.text(alphabet=r"019./,-+ ()[]{}\$%xyA=^" + "\n", max_size=30) | st.text(max_size=500))
def test_the_form_of_a_form_is_itself(text: str) -> None:
    form = canonical(text)
    assert canonical(form) == form


def test_long_answers_are_only_stripped() -> None:
    text = " " + "1," * MAX_LENGTH + " "
    assert canonical(text) == text.strip()
    assert canonical("(" * (MAX_LENGTH + 1))
