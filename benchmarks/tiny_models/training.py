"""What both training scripts share: batches of like-long sequences, the optimiser, resumable runs and the log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parent
RUNS, LOGS = HERE / "runs", HERE / "logs"
POOL = 4096  # sequences sorted by length together: little padding, still well mixed


def batches(sequences: list[np.ndarray], tokens_per_batch: int, seed: int) -> Iterator[list[int]]:
    """One pass over the sequences: lists of indices whose padded size is at most `tokens_per_batch`."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(sequences))
    for start in range(0, len(order), POOL):
        pool = sorted(order[start : start + POOL], key=lambda i: len(sequences[i]))
        groups: list[list[int]] = [[]]
        for index in pool:
            if (len(groups[-1]) + 1) * len(sequences[index]) > tokens_per_batch:
                groups.append([])
            groups[-1].append(int(index))
        for group in rng.permutation(len(groups)):
            yield groups[group]


def pad(rows: list[np.ndarray], fill: int) -> Tensor:
    """Right-padded [row, length] int64."""
    out = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return torch.from_numpy(out)


def schedule(seen: int, budget: int, warmup: int, decay: float) -> float:
    """Learning-rate factor after `seen` of `budget` tokens: linear warm-up over `warmup` tokens, flat, linear decay
    over the last share `decay` of the budget to 2 %."""
    return min(1.0, (seen + 500) / warmup, max(0.02, (1 - seen / budget) / decay))


class Optimizers:
    """Muon for the matrices inside the layers, AdamW for everything else, one schedule for both."""

    def __init__(self, model: torch.nn.Module, matrix_lr: float, other_lr: float) -> None:
        matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
        others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in n)]
        self.parts: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.Muon(matrices, lr=matrix_lr, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"), matrix_lr),
            (torch.optim.AdamW(others, lr=other_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True), other_lr),
        ]

    def step(self, factor: float) -> None:
        for optimizer, lr in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer, _ in self.parts]

    def load(self, states: list[dict[str, Any]]) -> None:
        for (optimizer, _), state in zip(self.parts, states, strict=True):
            optimizer.load_state_dict(state)


class Run:
    """A training run on disk: checkpoint in runs/, one JSON line per report in logs/."""

    def __init__(self, name: str) -> None:
        RUNS.mkdir(exist_ok=True)
        LOGS.mkdir(exist_ok=True)
        self.checkpoint, self.log_file = RUNS / f"{name}.pt", LOGS / f"{name}.jsonl"
        self.seconds_before, self.started = 0.0, time.monotonic()

    def resume(self, model: torch.nn.Module, optimizers: Optimizers) -> tuple[int, int]:
        """Load the checkpoint if there is one; returns (steps, tokens) done."""
        if not self.checkpoint.exists():
            self.log_file.write_text("")
            return 0, 0
        saved = torch.load(self.checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizers.load(saved["optimizers"])
        self.seconds_before = saved["seconds"]
        return saved["steps"], saved["tokens"]

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def save(self, model: torch.nn.Module, optimizers: Optimizers, steps: int, tokens: int) -> None:
        """Write the checkpoint; a crash while writing leaves the old one."""
        partial = self.checkpoint.with_suffix(".partial")
        counts = {"steps": steps, "tokens": tokens, "seconds": self.seconds}
        torch.save({"model": model.state_dict(), "optimizers": optimizers.state()} | counts, partial)
        partial.replace(self.checkpoint)

    def log(self, **values: float | int | str) -> None:
        line = json.dumps({key: round(v, 5) if isinstance(v, float) else v for key, v in values.items()})
        with self.log_file.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)
