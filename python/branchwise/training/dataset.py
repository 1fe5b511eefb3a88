"""Steps with their states and labels, read once: what heads of any layers and pooling are fitted on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from branchwise.engine.engine import StepEngine
from branchwise.engine.reread import Read, Rereader, Steps
from branchwise.errors import ConfigError
from branchwise.scoring.value_head import step_numbers
from branchwise.training.samples import Solved

Told = Callable[[int, int], None]  # problems that are done, of how many
_MEAN, _LAST, _BEHIND = range(3)


@dataclass
class Dataset:
    """The steps of all solutions, one after the other.

    states [steps, layers, 3, hidden] fp16: mean, last, behind, see `Read`    layers: in the order of `Rereader`
    numbers [steps, n] fp32: `step_numbers` of each
    right [steps]: whether the solution is    sample, problem [steps]: numbers of both    ends [steps]: its last step
    names: of problems
    """

    states: Tensor
    numbers: Tensor
    layers: list[int]
    right: Tensor
    sample: Tensor
    problem: Tensor
    ends: Tensor
    names: list[str]

    def features(self, layers: Sequence[int], pooling: str, *, after: bool) -> Tensor:
        """[steps, features] fp32, as `ValueHead.features` makes them of nodes."""
        places = [place for place, layer in enumerate(self.layers) if layer in layers]
        last = _BEHIND if after else _LAST
        kinds = {"none": [], "mean": [_MEAN], "last": [last], "mean+last": [_MEAN, last]}[pooling]
        states = [self.states[:, place, kind].float() for kind in kinds for place in places]
        return torch.cat([*states, self.numbers], dim=1)

    @cached_property
    def weights(self) -> Tensor:
        """[steps]: every solution counts as much as any other."""
        counts = torch.bincount(self.sample)
        return 1.0 / counts[self.sample]

    @cached_property
    def pairs(self) -> Tensor:
        """[n, 2]: the last step of a right solution, and that of a wrong one of the same problem; all there are."""
        found = [torch.empty(0, 2, dtype=torch.long)]
        for number in range(len(self.names)):
            last = (self.ends & (self.problem == number)).nonzero()[:, 0]
            right = self.right[last]
            found.append(torch.cartesian_prod(last[right], last[~right]).view(-1, 2))
        return torch.cat(found)

    @property
    def n_samples(self) -> int:
        return int(self.ends.sum())


def read_dataset(
    engine: StepEngine, solved: Sequence[Solved], layers: Sequence[int], policy: str, *, folder: Path | None, told: Told
) -> Dataset:
    """Feed all solutions. folder: where the states of each problem are kept, for a run that goes on; None: nowhere"""
    parts, numbers, right, sample, problem, ends = [], [], [], [], [], []
    count = 0
    if folder is not None:
        _make(folder)
    with Rereader(engine, layers, [each.prompt for each in solved]) as reader:
        for number, each in enumerate(solved):
            states = _states(reader, each, policy, folder)
            for one, found in zip(each.samples, states, strict=True):
                parts.append(found.states)
                steps = len(found.states)
                logprobs, tokens = found.logprobs.tolist(), [len(step) for step in one.steps]
                numbers += [step_numbers(logprobs[:end], tokens[:end]) for end in range(1, steps + 1)]
                right += [one.right] * steps
                sample += [count] * steps
                problem += [number] * steps
                ends += [False] * (steps - 1) + [True]
                count += 1
            told(number + 1, len(solved))
    return Dataset(
        torch.cat(parts), torch.tensor(numbers), reader.layers, torch.tensor(right), torch.tensor(sample),
        torch.tensor(problem), torch.tensor(ends), [each.problem for each in solved],
    )  # fmt: skip


def _states(reader: Rereader, each: Solved, policy: str, folder: Path | None) -> list[Read]:
    every = [sample.steps for sample in each.samples]
    solutions = list(dict.fromkeys(every))  # what was drawn twice is read once
    found = dict(zip(solutions, _read(reader, each.prompt, solutions, policy, folder), strict=True))
    return [found[steps] for steps in every]


def _read(
    reader: Rereader, prompt: Sequence[int], solutions: Sequence[Steps], policy: str, folder: Path | None
) -> list[Read]:
    path = None
    if folder is not None:
        about = repr((policy, reader.layers, prompt, solutions))
        path = folder / f"{hashlib.blake2b(about.encode(), digest_size=12).hexdigest()}.npz"
        kept = _kept(path, [len(steps) for steps in solutions])
        if kept is not None:
            return kept
    made = [Read(each.states.half(), each.logprobs) for each in reader.read(prompt, solutions)]
    if path is not None and made:
        temporary = path.with_suffix(f".{os.getpid()}.new")
        with temporary.open("wb") as file:
            states, logprobs = (torch.cat(each).numpy() for each in zip(*made, strict=True))
            np.savez(file, states=states, logprobs=logprobs)
        temporary.replace(path)
    return made


def _kept(path: Path, steps: list[int]) -> list[Read] | None:
    """What was read before, of solutions of so many steps; None: the file is missing or damaged, and is made again."""
    try:
        with path.open("rb") as file, np.load(file) as kept:
            whole = Read(torch.from_numpy(kept["states"]), torch.from_numpy(kept["logprobs"]))
        parts = [torch.split(each, steps) for each in whole]
    except (OSError, EOFError, LookupError, AttributeError, TypeError, ValueError, RuntimeError, BadZipFile):
        return None
    return [Read(*each) for each in zip(*parts, strict=True)]


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot keep states in {folder}: {error.strerror}; choose another folder") from error
