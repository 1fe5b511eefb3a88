"""What the PRM learns from: solutions with exact labels, and probes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from corruption import corrupt
from task import Exercise, Expression, check_step, exercises, held_out, parse, split_steps
from torch import Tensor
from vocabulary import MARKER, PRM, prm_prompt

from training import RUNS, pad

SYNTHETIC_SHARE, CANONICAL_SHARE = 0.3, 0.1  # of the judged solutions; the rest are samples of the policy
LONGEST = 400  # tokens; longer samples are left out
NO_LABEL = -1
HELD_OUT = frozenset(e.problem for e in held_out())
DIGITS = PRM.encode("0123456789")
STEP_CHARACTERS = PRM.encode("0123456789+-*()=; \\boxed{}")


@dataclass(frozen=True, slots=True)
class Solution:
    """tokens: with markers; labels: 1 or 0 at markers, else NO_LABEL; written: 1 after the prompt. All [length]."""

    tokens: np.ndarray
    labels: np.ndarray
    written: np.ndarray


def labelled(problem: str, steps: list[str]) -> Solution:
    """A solution in the PRM's format with the exact checker's labels."""
    tokens = prm_prompt(problem)
    written = [0] * len(tokens)
    labels = [NO_LABEL] * len(tokens)
    expression: Expression | None = parse(problem)
    for step in steps:
        expression = None if expression is None else check_step(expression, step)
        tokens += [*PRM.encode(step), PRM.ids[MARKER]]
        labels += [NO_LABEL] * len(step) + [int(expression is not None)]
    written += [1] * (len(tokens) - len(written))
    return Solution(np.array(tokens, np.uint8), np.array(labels, np.int8), np.array(written, np.int8))


def right_solutions(seed: int) -> Iterator[Solution]:
    """Canonical solutions of endless exercises."""
    for exercise in exercises(seed, HELD_OUT):
        yield labelled(exercise.problem, exercise.steps)


def judged_solutions(seed: int, samples: str) -> Iterator[Solution]:
    """Synthetic and canonical solutions, mixed with the policy's samples as long as they last."""
    rng = random.Random(seed)
    stream: Iterator[Exercise] = exercises(seed, HELD_OUT)
    drawn: list[tuple[str, str]] = []
    for line in (RUNS / f"{samples}.jsonl").read_text().splitlines():
        record = json.loads(line)
        drawn += [(record["problem"], text) for text in record["solutions"]]
    rng.shuffle(drawn)
    while drawn:
        kind = rng.random()
        if kind < SYNTHETIC_SHARE + CANONICAL_SHARE:
            exercise = next(stream)
            yield labelled(exercise.problem, corrupt(rng, exercise) if kind < SYNTHETIC_SHARE else exercise.steps)
        else:
            problem, text = drawn.pop()
            yield labelled(problem, split_steps(text))


def take(stream: Iterator[Solution], tokens: int) -> list[Solution]:
    """Solutions worth `tokens` tokens, or as many as there are."""
    chosen, total = [], 0
    for solution in stream:
        if len(solution.tokens) <= LONGEST:
            chosen.append(solution)
            total += len(solution.tokens)
        if total >= tokens:
            break
    return chosen


@dataclass(frozen=True, slots=True)
class Probed:
    """Right solutions, each followed by its probes: tokens, positions, mask as `TinyModel.hidden` takes them.

    A probe stands at the position of one written token and sees everything before it: it is that token, or another one.
    So the model is asked at every place "would this be right here?", and no mistake ever spoils what comes after it.
    asked: [row, 2 * length] bool, where a probe has an answer; right: [row, 2 * length] fp32, the answer.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    asked: Tensor
    right: Tensor


def probed(rows: list[Solution], rng: np.random.Generator) -> Probed:
    """Half of the probes are wrong, and where a digit belongs mostly another digit."""
    tokens = pad([row.tokens for row in rows], 0)
    shape, length = tuple(tokens.shape), tokens.shape[1]

    def chance(share: float) -> Tensor:
        return torch.from_numpy(rng.random(shape) < share)

    digit = (tokens >= min(DIGITS)) & (tokens <= max(DIGITS)) & chance(0.8)
    other_digit, other = (torch.from_numpy(rng.choice(words, shape)) for words in (DIGITS, STEP_CHARACTERS))
    probes = torch.where(chance(0.5), torch.where(digit, other_digit, other), tokens)
    place = torch.arange(length)
    before, itself = place[None] < place[:, None], torch.eye(length, dtype=torch.bool)
    mask = torch.cat((torch.cat((before | itself, torch.zeros_like(itself)), 1), torch.cat((before, itself), 1)), 0)
    written = pad([row.written for row in rows], 0).bool()
    return Probed(
        tokens=torch.cat((tokens, probes), 1),
        positions=torch.cat((place, place))[None],
        mask=mask[None, None],
        asked=torch.cat((torch.zeros_like(written), written), 1),
        right=torch.cat((torch.ones(shape), (probes == tokens).float()), 1),
    )
