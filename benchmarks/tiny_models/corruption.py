"""Wrong solutions made on purpose: one step of a canonical solution goes wrong, the rest follows from the mistake."""

from __future__ import annotations

import random

from task import Exercise, Expression, apply, canonical_place, parse, reduce_at, reducible, write_step


def wrong_number(rng: random.Random, number: str) -> str:
    """A number near the given one: a slip of one or ten, two digits swapped, or one digit replaced."""
    kind = rng.randrange(4)
    if kind == 0:
        return str(abs(int(number) + rng.choice((-2, -1, 1, 2))))
    if kind == 1:
        return str(abs(int(number) + rng.choice((-10, 10, 20, -20))))
    if kind == 2 and len(number) > 1:
        return str(int(number[::-1]))
    place = rng.randrange(len(number))
    return str(int(number[:place] + rng.choice("0123456789") + number[place + 1 :]))


def miscopied(rng: random.Random, expression: Expression) -> Expression:
    """The expression with one number or operator changed, or one term lost."""
    place = rng.randrange(len(expression))
    token = expression[place]
    if token.isdigit():
        if rng.random() < 0.25 and len(expression) > 3:
            return expression[:place] + expression[place + 2 :]
        return [*expression[:place], wrong_number(rng, token), *expression[place + 1 :]]
    if token in "()":
        return [t for t in expression if t not in "()"]
    return [*expression[:place], rng.choice([o for o in "+-*" if o != token]), *expression[place + 1 :]]


def wrong_step(rng: random.Random, expression: Expression) -> tuple[str, Expression]:
    """A step that is (nearly always) wrong, and the expression it leads to."""
    place = canonical_place(expression)
    left, operator, right = expression[place : place + 3]
    kind = rng.random()
    if kind < 0.1:  # a right sum of the wrong numbers
        left, right = (wrong_number(rng, left), right) if rng.random() < 0.5 else (left, wrong_number(rng, right))
    elif kind < 0.15:  # a right sum out of turn
        places = [i for i in range(len(expression) - 2) if expression[i].isdigit() and expression[i + 2].isdigit()]
        place = rng.choice([i for i in places if i not in reducible(expression)] or [place])
        left, operator, right = expression[place : place + 3]
    elif kind < 0.2:  # another operation on the right numbers
        operator = rng.choice([o for o in "+-*" if o != operator])
    value = abs(apply(left, operator, right))
    said = int(wrong_number(rng, str(value))) if 0.2 <= kind < 0.8 else value
    carried = int(wrong_number(rng, str(value))) if 0.8 <= kind < 0.86 else said
    rest = reduce_at(expression, place, carried)
    if kind >= 0.86 and len(rest) > 1:
        rest = miscopied(rng, rest)
    return write_step(left, operator, right, said, rest), rest


def corrupt(rng: random.Random, exercise: Exercise) -> list[str]:
    """The steps of a solution that goes wrong at a random step and then goes on as if nothing had happened."""
    expression, steps = parse(exercise.problem), []
    wrong_at = rng.randrange(len(exercise.steps))
    while len(expression) > 1 and reducible(expression):
        if len(steps) == wrong_at:
            step, expression = wrong_step(rng, expression)
        else:
            place = canonical_place(expression)
            left, operator, right = expression[place : place + 3]
            value = apply(left, operator, right)
            if not 0 <= value < 1000:
                break
            expression = reduce_at(expression, place, value)
            step = write_step(left, operator, right, value, expression)
        steps.append(step)
    return steps
