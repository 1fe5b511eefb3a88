"""A value head from problems: solutions, their states, the fit, and how well it does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from branchwise.answers.grade import Grader
from branchwise.control.quality import auc, brier, expected_error, reliability
from branchwise.errors import ConfigError
from branchwise.scoring.value_head import SUFFIX, Calibration, ValueHead
from branchwise.training import logistic
from branchwise.training.choose import FOLDS, Choice, choose, fit_rows
from branchwise.training.dataset import Dataset, read_dataset
from branchwise.training.samples import Solved, check_both, check_budget, draw, labelled
from branchwise.types import Problem
from branchwise.weights import open_checkpoint
from branchwise.weights.identity import identity

if TYPE_CHECKING:
    from branchwise.api import Engine


class Listener:
    """What is told while a head is trained; nothing by default."""

    def read(self, done: int, total: int) -> None:
        """The states of so many problems are known."""

    def tried(self, choice: Choice) -> None:
        """Another choice of states was fitted."""


SILENT = Listener()


@dataclass(frozen=True, slots=True)
class Trained:
    """A head that was saved, and the reliability of its scores by tenths: of last steps, and of all steps."""

    head: ValueHead
    path: Path
    bins: dict[str, list[tuple[float, float, int]]]

    @property
    def report(self) -> dict[str, Any]:
        """AUC over all and within a problem, Brier, calibration errors, and what it was trained on."""
        return self.head.trained


def train_head(
    engine: Engine,
    problems: Iterable[Problem],
    out: str | Path,
    *,
    n: int = 8,
    seed: int | None = None,
    layers: Sequence[int] | None = None,
    listener: Listener = SILENT,
) -> Trained:
    """Draw n solutions of each problem, learn from their final answers which states lead to right ones, save the head.

    engine: of the policy, with nothing else in flight    problems: with gold answers    seed: as of `solve`
    layers: whose states are tried, alone and all side by side; None: the last, and some of the second half
    ConfigError: too few solutions. InputError: no gold answers, or all solutions are right, or all wrong.
    """
    given = labelled(problems)
    check_budget(len(given), n)
    check_out(Path(out))
    check_layers(engine, layers)
    with Grader() as grader:
        solved = draw(engine, given, n, seed, grader)
    return fit_head(engine, solved, out, layers=layers, listener=listener)


def fit_head(
    engine: Engine,
    solved: Sequence[Solved],
    out: str | Path,
    *,
    layers: Sequence[int] | None = None,
    states: Path | None = None,
    listener: Listener = SILENT,
) -> Trained:
    """As `train_head`, from solutions that are there. states: a folder that keeps their states for a later run"""
    path = check_out(Path(out))
    wanted = check_layers(engine, layers)
    check_both(solved)
    policy, made = identity(open_checkpoint(engine.policy.source)), engine.resolved
    kind = f"{policy} {made.dtype} {made.weights} {made.kernels}"
    data = read_dataset(engine.policy, solved, wanted, kind, folder=states, told=listener.read)
    sets = [(layer,) for layer in wanted] + ([tuple(wanted)] if len(wanted) > 1 else [])
    best = choose(data, sets, listener.tried)
    x = data.features(best.layers, best.pooling, after=best.after)
    fitted = fit_rows(data, x, torch.ones_like(data.right), best.l2)
    calibration = Calibration(*logistic.platt(best.z, data.right.float(), data.weights))
    tensors = [fitted.weight[None].contiguous(), fitted.bias]
    report, bins = _report(data, best, calibration)
    report |= {"dtype": made.dtype, "weights": made.weights, "kernels": made.kernels}
    head = ValueHead(
        policy, best.layers, best.pooling, best.after, tensors, calibration, report, str(path)
    )  # fmt: skip
    head.save(path)
    return Trained(head, path, bins)


def check_out(path: Path) -> Path:
    """ConfigError: a head cannot have this name."""
    if path.suffix != SUFFIX:
        raise ConfigError(f"out={str(path)!r}: expected a name that ends in {SUFFIX}, by which a value head is known")
    return path


def check_layers(engine: Engine, layers: Sequence[int] | None) -> list[int]:
    """The layers to try. ConfigError: the policy has no such layer."""
    last = engine.policy.model.config.n_layers
    if layers is None:
        return sorted({max(1, round(last * share)) for share in (0.5, 2 / 3, 5 / 6, 1.0)})
    if not layers or any(not 1 <= layer <= last for layer in layers):
        raise ConfigError(
            f"layers={list(layers)}: expected some of 1 to {last}, which is the state that words are drawn from"
        )
    return sorted(set(layers))


def _report(
    data: Dataset, best: Choice, calibration: Calibration
) -> tuple[dict[str, Any], dict[str, list[tuple[float, float, int]]]]:
    """How well scores of problems do that the fit did not see."""
    scores, right = [calibration(z) for z in best.z.tolist()], data.right.tolist()
    ends = [(score, label) for score, label, end in zip(scores, right, data.ends.tolist(), strict=True) if end]
    final = tuple(zip(*ends, strict=True))
    bins = {"last steps": reliability(*final), "all steps": reliability(scores, right)}
    return {
        "problems": len(data.names),
        "solutions": data.n_samples,
        "steps": len(right),
        "right": sum(final[1]) / len(ends),
        "folds": min(FOLDS, len(data.names)),
        "choice": best.words(),
        "auc": best.auc,
        "auc_within": best.within,
        "auc_steps": auc(scores, right),
        "brier": brier(*final),
        "ece": expected_error(*final),
        "ece_steps": expected_error(scores, right),
    }, bins
