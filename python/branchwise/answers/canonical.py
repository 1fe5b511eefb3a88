"""One form for every way to write an answer, so that most equal answers meet without computer algebra."""

from __future__ import annotations

from branchwise.answers.reading import MAX_LENGTH, read

__all__ = ["MAX_LENGTH", "canonical"]

_MAX_ROUNDS = 4


def canonical(answer: str) -> str:
    r"""Return the canonical form of an answer: equal strings mean equal answers, different strings may still be equal.

    Numbers (decimals, fractions, mixed numbers, powers, roots, factorials, thousands separators, words) become an
    integer or a reduced `p/q`; sums, products and fractions are put in order. Lists and sets are sorted, tuples are
    treated item by item, inequalities are intervals. Fonts, delimiters, hedges and units are dropped: 50% is 50, never
    1/2, and "about 5 red balls" is 5. `x = 5` is 5, "(C) Paris" is C, words lose their case. "" for what says nothing.
    """
    text = read(answer).text
    for _ in range(_MAX_ROUNDS):  # one clean-up may uncover another
        again = read(text).text
        if again == text:
            break
        text = again
    return text
