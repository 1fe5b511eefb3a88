"""Which states a head reads, and how strongly it is held back: by cross-validation over problems."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from branchwise.control.quality import auc, auc_within
from branchwise.scoring.value_head import Pooling
from branchwise.training import logistic
from branchwise.training.dataset import Dataset

FOLDS = 5
STRENGTHS = (0.03, 0.3, 3.0)  # of the states: log-probabilities are few, and held back by nothing
POOLINGS: tuple[Pooling, ...] = ("last", "mean", "mean+last")
HELD = 0.01  # of the mean AUC, that a fit held back ten times less must gain: it does worse on other problems
MARGIN = 0.005  # of the mean AUC, that states behind the last token must gain: they cost a row more a step


@dataclass(frozen=True, slots=True)
class Choice:
    """What a head could read, with its out-of-fold numbers. z: [steps]: each from a fit without its problem"""

    layers: tuple[int, ...]
    pooling: Pooling
    after: bool
    l2: float
    z: Tensor
    auc: float | None
    within: float | None

    @property
    def quality(self) -> float:
        """Mean of both AUCs, of those that are known."""
        known = [each for each in (self.auc, self.within) if each is not None]
        return sum(known) / len(known) if known else 0.5

    @property
    def worth(self) -> float:
        """`quality` beside what the choice costs: see `MARGIN` and `HELD`."""
        return self.quality - MARGIN * self.after - HELD * math.log10(max(STRENGTHS) / self.l2)

    def words(self) -> str:
        """ "layer 20, mean+last, before the separator, l2=0.03"."""
        if self.pooling == "none":
            return "no states, log-probabilities alone"
        layers = f"layer{'s' if len(self.layers) > 1 else ''} {', '.join(map(str, self.layers))}"
        return f"{layers}, {self.pooling}, {'behind' if self.after else 'before'} the separator, l2={self.l2:g}"


Tried = Callable[[Choice], None]


def choose(data: Dataset, layer_sets: Sequence[tuple[int, ...]], tried: Tried, seed: int = 0) -> Choice:
    """The best of all: first layers, pooling and place at the middle strength, then the strength."""
    folds = folds_of(data, seed)
    middle = STRENGTHS[len(STRENGTHS) // 2]
    found = [cross_validated(data, folds, (), "none", after=False, l2=middle)]
    tried(found[0])
    for layers, pooling, after in itertools.product(layer_sets, POOLINGS, (False, True)):
        if not (after and pooling == "mean"):  # which has no last state
            found.append(cross_validated(data, folds, layers, pooling, after=after, l2=middle))
            tried(found[-1])
    best = max(found, key=lambda each: each.worth)
    for l2 in STRENGTHS:
        if l2 != middle and best.pooling != "none":  # where nothing is held back
            found.append(cross_validated(data, folds, best.layers, best.pooling, after=best.after, l2=l2))
            tried(found[-1])
    return max(found, key=lambda each: each.worth)


def folds_of(data: Dataset, seed: int) -> Tensor:
    """[steps]: the fold of each, the same for all of a problem."""
    count = len(data.names)
    order = np.random.default_rng(seed).permutation(count)
    fold = torch.empty(count, dtype=torch.long)
    fold[torch.from_numpy(order)] = torch.arange(count) % min(FOLDS, count)
    return fold[data.problem]


def cross_validated(
    data: Dataset, folds: Tensor, layers: tuple[int, ...], pooling: Pooling, *, after: bool, l2: float
) -> Choice:
    """Every step's number from a fit on the other folds."""
    x = data.features(layers, pooling, after=after)
    z = torch.empty(len(x))
    for fold in range(int(folds.max()) + 1):
        others = folds != fold
        z[~others] = fit_rows(data, x, others, l2)(x[~others])
    return Choice(layers, pooling, after, l2, z, *final_aucs(data, z))


def fit_rows(data: Dataset, x: Tensor, rows: Tensor, l2: float) -> logistic.Linear:
    """A fit on some problems. x: [steps, features] of all    rows: [steps], which are theirs"""
    pairs = data.pairs[rows[data.pairs[:, 0]]]
    place = rows.cumsum(0) - 1
    return logistic.fit(
        x[rows], data.right[rows].float(), data.weights[rows], l2, free=data.numbers.shape[1], pairs=place[pairs]
    )


def final_aucs(data: Dataset, z: Tensor) -> tuple[float | None, float | None]:
    """AUC of the last steps' numbers, over all and within a problem."""
    scores, right = z[data.ends].tolist(), data.right[data.ends].tolist()
    problems = [data.names[each] for each in data.problem[data.ends].tolist()]
    return auc(scores, right), auc_within(scores, right, problems)
