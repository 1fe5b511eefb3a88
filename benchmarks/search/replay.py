"""Searches recorded and replayed: what every step's length, score and end were, without the models that made them.

A replay runs the real service, strategy, step engine and scorer over models that compute nothing, so that hundreds of
schedules are tried in seconds. Results do not depend on the schedule, so one recording serves them all.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

import branchwise as bw
from branchwise._C import lineage_child
from branchwise.backend.cpu.backend import CpuBackend
from branchwise.engine.engine import StepEngine
from branchwise.engine.kv import KvCache
from branchwise.engine.sampler import DrawnToken
from branchwise.pair.pair import ModelPair
from branchwise.pair.prompts import problem_lineage, prompt_ids
from branchwise.scoring.prm import Prm
from branchwise.scoring.scorer import Scorer
from branchwise.tree import walk
from branchwise.types import Problem, Result, Settings

Json = dict[str, Any]
ROOM = 1 << 18  # KV blocks of either model: admission is not what is replayed
SETTINGS = Settings(max_tokens=1 << 12, max_step_tokens=1 << 12, reuse=False)  # no cap ends a step of a recording


def record(engine: bw.Engine, results: Iterable[Result]) -> list[Json]:
    """One entry a problem: tokens of both prompts, and every step by its path.

    A step is [tokens, PRM tokens, score, ends, path of the first step with this text after the same texts].
    """
    assert engine.judge is not None
    problems = []
    for result in results:
        steps: dict[str, list[Any]] = {}
        first: dict[tuple[str, ...], str] = {}  # by the texts of the branch
        for node in list(walk(result.tree))[1:]:
            ids = engine.judge.prm.format.step(node.depth - 1, node.text) if node.text.strip() else []
            path = ".".join(map(str, node.lineage_path))
            same_as = first.setdefault(tuple(step.text for step in node.path), path)
            steps[path] = [len(node.tokens), len(ids), node.score, node.is_final, same_as]
        prompt = len(prompt_ids(engine.policy.tokenizer, result.problem, engine.pair.instruction))
        judged = len(engine.judge.prm.format.prompt(result.problem.text))
        problems.append({"id": result.problem.id, "prompt": prompt, "prm_prompt": judged, "steps": steps})
    return problems


def save_recording(path: Path, options: argparse.Namespace, problems: Sequence[Json]) -> None:
    """Write what `record` returned, with the search that it came from."""
    entry = {name: getattr(options, name) for name in ("strategy", "n", "expand", "max_tokens")}
    models = {"policy": Path(options.policy).stem, "prm": Path(options.prm).stem}
    path.write_text(json.dumps({**entry, **models, "problems": problems}))


@dataclass(frozen=True, slots=True)
class Step:
    """One recorded step under its number, the last token that both models see of it."""

    number: int
    tokens: int
    prm_tokens: int
    score: float | None
    ends: bool
    same_as: int  # number of the first step with this text after the same texts


class Recording:
    """Stands in for tokenizers, PRM format and models: token 0 is any token, another ends the step of that number."""

    chat_template = None
    add_bos = False

    def __init__(self, problems: Sequence[Json]) -> None:
        self.steps: list[Step] = [Step(0, 0, 0, None, False, 0)]
        self.by_lineage: dict[int, tuple[Step, int]] = {}  # and the position of the step's last token
        self.prompts = {each["id"]: each["prm_prompt"] for each in problems}
        self.problems = [Problem(each["id"], each["id"], prompt=[0] * each["prompt"]) for each in problems]
        for problem, entry in zip(self.problems, problems, strict=True):
            known: dict[str, tuple[int, int]] = {"": (problem_lineage(problem), entry["prompt"])}
            numbers: dict[str, int] = {}
            for path, (tokens, prm_tokens, score, ends, same_as) in entry["steps"].items():
                parent, _, index = path.rpartition(".")
                number = numbers[path] = len(self.steps)
                step = Step(number, tokens, prm_tokens, score, ends, numbers[same_as])
                lineage, begin = known[parent]
                known[path] = (lineage_child(lineage, int(index)), begin + tokens)
                self.steps.append(step)
                self.by_lineage[known[path][0]] = (step, begin + tokens - 1)
        self.eos_ids = frozenset(step.number for step in self.steps if step.ends)
        self.vocab_size = len(self.steps)

    # --- as a tokenizer
    def encode(self, text: str, **_: Any) -> list[int]:
        return [0]

    def decode(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, tokens)).decode().strip()

    def token_bytes(self, token: int) -> bytes:
        step = self.steps[token]
        text = b"%d" % step.same_as if step.prm_tokens else b""
        return text if step.ends or not token else text + b"\n\n"

    # --- as a PRM format: the text of a step is its number
    def prompt(self, problem: str) -> list[int]:
        return [0] * self.prompts[problem]

    def step(self, index: int, text: str) -> list[int]:
        return [0] * (self.steps[int(text)].prm_tokens - 1) + [int(text)] if text.isdigit() else [0]

    def readings(self, index: int, text: str) -> list[list[int]]:
        return [self.step(index, text)]

    # --- as sampler and PRM head: a row's hidden state is its token
    def draw(self, hidden: Tensor, draws: Sequence[Any]) -> list[DrawnToken]:
        ends = [self.by_lineage[draw.lineage] for draw in draws]
        ids = [step.number if draw.position == last else 0 for draw, (step, last) in zip(draws, ends, strict=True)]
        return [DrawnToken(id, 0.0, None) for id in ids]

    def head(self, hidden: Tensor) -> Any:
        scores = [self.steps[int(number)].score for number in hidden[:, 0]]
        return np.array([0.0 if score is None else score for score in scores])


class NoRope:
    """Angles for models without attention."""

    def reserve(self, positions: int) -> None: ...

    def cover(self, positions: int) -> None: ...


def replay_pair(recording: Recording, *, max_rows: int, batch_rows: int = 512, speculate: bool = False) -> ModelPair:
    """A step engine and a scorer whose models are the recording."""
    config = SimpleNamespace(
        n_layers=1, n_heads=1, n_kv_heads=1, head_dim=8, hidden_size=1, max_positions=1 << 20, matmul_parameters=1,
        vocab_size=recording.vocab_size, final_softcap=0.0,
    )  # fmt: skip
    backend = CpuBackend()
    model = SimpleNamespace(
        config=config, rope=NoRope(), dtype=torch.float32, backend=backend, head=[],
        embed=lambda tokens: tokens[:, None].float(),
        through_layers=lambda residual, plan, pool, taps=(): [backend.last_rows(residual, plan)],
    )  # fmt: skip
    caches = [KvCache(cast(Any, config), ROOM, torch.float32, backend) for _ in range(2)]
    tokenizer = cast(Any, recording)
    policy = StepEngine(cast(Any, model), tokenizer, caches[0], max_rows=max_rows, speculate=speculate)
    policy.sampler = tokenizer
    prm = Prm(cast(Any, model), recording.head, recording, tokenizer, "recording")
    return ModelPair(policy, Scorer(prm, caches[1], batch_rows=batch_rows), instruction="")
