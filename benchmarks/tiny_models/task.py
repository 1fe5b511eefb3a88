"""The task: integer arithmetic worked one operation a step, with an exact checker of every step.

A problem is an expression such as `(12+7)*3-4*9+15=?`; a step states one operation and the rewritten expression:

    12+7=19; 19*3-4*9+15

and the last step puts the answer in a box: `46+15=61; \\boxed{61}`. Steps are separated by a blank line.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

LIMIT = 999  # every number, every intermediate value and every product lies in [0, LIMIT]
OPERATIONS, OPERATION_WEIGHTS = (
    (3, 4, 5, 6),
    (4, 5, 6, 7),
)  # long chains leave [0, LIMIT] more often: about even in the end
SEPARATOR = "\n\n"
TOKEN = re.compile(r"\d+|[-+*()]")
BOXED = re.compile(r"\\boxed\{(\d+)\}")

Expression = list[str]  # numbers, operators and parentheses


@dataclass(frozen=True, slots=True)
class Exercise:
    """A problem with its canonical solution."""

    problem: str
    steps: list[str]
    answer: str


def apply(left: str, operator: str, right: str) -> int:
    """The value of `left operator right`."""
    a, b = int(left), int(right)
    return a + b if operator == "+" else a - b if operator == "-" else a * b


def reducible(expression: Expression) -> list[int]:
    """Left operands of the operations that may be done next: strictly left to right, products first."""
    places = []
    for i in range(1, len(expression) - 1):
        if not (expression[i] in "+-*" and expression[i - 1].isdigit() and expression[i + 1].isdigit()):
            continue
        before = expression[i - 2] if i >= 2 else "("
        after = expression[i + 2] if i + 2 < len(expression) else ")"
        free = before != "*" if expression[i] == "*" else before == "(" and after != "*"
        if free:
            places.append(i - 1)
    return places


def reduce_at(expression: Expression, place: int, value: int) -> Expression:
    """The expression with the operation at `place` replaced by `value`; parentheses around a lone number go."""
    begin, end = place, place + 3
    if begin > 0 and end < len(expression) and expression[begin - 1] == "(" and expression[end] == ")":
        begin, end = begin - 1, end + 1
    return [*expression[:begin], str(value), *expression[end:]]


def canonical_place(expression: Expression) -> int:
    """The operation the canonical solution does next: inside parentheses first, then products, then left to right."""
    places = reducible(expression)
    opening = expression.index("(") if "(" in expression else None
    if opening is not None:
        closing = expression.index(")", opening)
        places = [place for place in places if opening < place < closing]
    products = [place for place in places if expression[place + 1] == "*"]
    return (products or places)[0]


def write_step(left: str, operator: str, right: str, value: int, rest: Expression) -> str:
    """The text of a step: the operation, then the rewritten expression or the boxed answer."""
    tail = "".join(rest) if len(rest) > 1 else f"\\boxed{{{''.join(rest)}}}"
    return f"{left}{operator}{right}={value}; {tail}"


def solve(expression: Expression) -> list[str] | None:
    """The canonical steps, or None when a value leaves [0, LIMIT] or a product has no factor below 10."""
    steps = []
    while len(expression) > 1:
        place = canonical_place(expression)
        left, operator, right = expression[place : place + 3]
        value = apply(left, operator, right)
        too_hard = operator == "*" and int(left) > 9 and int(right) > 9
        if too_hard or not 0 <= value <= LIMIT:
            return None
        expression = reduce_at(expression, place, value)
        steps.append(write_step(left, operator, right, value, expression))
    return steps


def check_step(expression: Expression, step: str) -> Expression | None:
    """The expression after a right step, None after a wrong one.

    Right means: the operation may be done next, its result is right, and the rewritten expression follows from it.
    """
    for place in reducible(expression):
        left, operator, right = expression[place : place + 3]
        value = apply(left, operator, right)
        rest = reduce_at(expression, place, value)
        if step == write_step(left, operator, right, value, rest):
            return rest
    return None


def right_steps(expression: Expression) -> list[str]:
    """Every right step that could come next."""
    steps = []
    for place in reducible(expression):
        left, operator, right = expression[place : place + 3]
        value = apply(left, operator, right)
        steps.append(write_step(left, operator, right, value, reduce_at(expression, place, value)))
    return steps


def right_prefix(expression: Expression, step: str) -> int:
    """How many characters of a step agree with some right step."""
    lengths = [0]
    for right in right_steps(expression):
        pairs = zip(step, right, strict=False)
        lengths.append(next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(step), len(right))))
    return max(lengths)


def parse(problem: str) -> Expression:
    """The tokens of a problem or expression."""
    return TOKEN.findall(problem)


def label_steps(problem: str, steps: list[str]) -> list[int]:
    """1 for every step up to the first wrong one, 0 from there on."""
    labels: list[int] = []
    expression: Expression | None = parse(problem)
    for step in steps:
        expression = check_step(expression, step) if expression is not None else None
        labels.append(int(expression is not None))
    return labels


def split_steps(text: str) -> list[str]:
    """The steps of a solution, stripped; empty ones are left out."""
    return [step.strip() for step in text.split(SEPARATOR) if step.strip()]


def extract(text: str) -> str | None:
    """The last boxed answer in a text."""
    found = BOXED.findall(text)
    return found[-1] if found else None


def random_number(rng: random.Random, factor: bool) -> str:
    low, high = rng.choices(((2, 9), (10, 99), (100, 300)), (4, 2, 0) if factor else (2, 5, 1))[0]
    return str(rng.randint(low, high))


def random_expression(rng: random.Random) -> Expression:
    """A flat chain of operations with at most one pair of parentheses around a sum or difference."""
    count = rng.choices(OPERATIONS, OPERATION_WEIGHTS)[0]
    operators = rng.choices("+-*", weights=(4, 4, 3), k=count)
    group = rng.randrange(count) if rng.random() < 0.5 else -1
    if group >= 0:
        operators[group] = rng.choice("+-")
    expression: Expression = []
    for i in range(count + 1):
        factor = "*" in operators[max(i - 1, 0) : i + 1]
        if i == group:
            expression.append("(")
        expression.append(random_number(rng, factor))
        if i == group + 1 and group >= 0:
            expression.append(")")
        if i < count:
            expression.append(operators[i])
    return expression


def exercises(seed: int, exclude: frozenset[str] = frozenset()) -> Iterator[Exercise]:
    """An endless stream of different random exercises; problems in `exclude` never appear."""
    rng = random.Random(seed)
    while True:
        expression = random_expression(rng)
        steps = solve(expression)
        problem = "".join(expression) + "=?"
        if steps is None or problem in exclude:
            continue
        answer = extract(steps[-1])
        assert answer is not None
        yield Exercise(problem, steps, answer)


def held_out(count: int = 400, seed: int = 20_001) -> list[Exercise]:
    """The evaluation problems: all different, never seen in training."""
    chosen: dict[str, Exercise] = {}
    for exercise in exercises(seed):
        chosen.setdefault(exercise.problem, exercise)
        if len(chosen) == count:
            break
    return list(chosen.values())
