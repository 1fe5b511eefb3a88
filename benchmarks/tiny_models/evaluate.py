"""Measure the exported pair without the engine: greedy, majority, best-of-N, beam and DVTS, with 95 % intervals."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from export import load
from generation import generate
from model import TinyModel
from task import Exercise, extract, held_out, split_steps
from vocabulary import END, MARKER, POLICY, PRM, policy_prompt, prm_prompt

N, M = 16, 4
GROUP = 32  # problems searched together
MAX_STEPS = 10
AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {"last": lambda s: s[-1], "min": min, "prod": math.prod}


@dataclass(slots=True)
class Branch:
    """A solution under way: the policy's tokens so far, PRM scores of its steps."""

    exercise: Exercise
    tokens: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return bool(self.tokens) and self.tokens[-1] == POLICY.ids[END]

    @property
    def text(self) -> str:
        return POLICY.decode(self.tokens)

    @property
    def answer(self) -> str | None:
        return extract(self.text) if self.done else None


class Judge:
    """The PRM, scoring whole solutions from scratch; what was scored before is remembered."""

    def __init__(self, model: TinyModel) -> None:
        self.model = model
        self.known: dict[tuple[str, str], list[float]] = {}

    @torch.inference_mode()
    def score(self, branches: list[Branch]) -> None:
        """Fill `scores` of every branch: P(good) of each of its steps."""
        wanted = list({(b.exercise.problem, b.text) for b in branches} - self.known.keys())
        wanted.sort(key=lambda key: len(key[0]) + len(key[1]))
        for start in range(0, len(wanted), 512):
            self._score_texts(wanted[start : start + 512])
        for branch in branches:
            branch.scores = self.known[branch.exercise.problem, branch.text]

    def _score_texts(self, keys: list[tuple[str, str]]) -> None:
        rows = []
        for problem, text in keys:
            pieces = [piece for step in split_steps(text) for piece in (step, MARKER)]
            rows.append(prm_prompt(problem) + PRM.encode(*pieces))
        longest = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        probability = self.model.score(self.model.hidden(tokens)).softmax(-1)[..., 1]
        for key, row, values in zip(keys, rows, probability, strict=True):
            self.known[key] = [values[i].item() for i, token in enumerate(row) if token == PRM.ids[MARKER]]


class Bench:
    """A policy, a judge and a random stream."""

    def __init__(self, policy: TinyModel, judge: Judge, temperature: float, seed: int) -> None:
        self.policy, self.judge, self.temperature = policy, judge, temperature
        self.generator = torch.Generator().manual_seed(seed)

    def continue_all(self, branches: list[Branch], one_step: bool) -> None:
        """Extend every unfinished branch by a step or to its end, then score all."""
        live = [b for b in branches if not b.done]
        prompts = [policy_prompt(b.exercise.problem) + b.tokens for b in live]
        if live:
            outputs = generate(self.policy, prompts, self.temperature, self.generator, stop_at_step=one_step)
            for branch, output in zip(live, outputs, strict=True):
                branch.tokens = branch.tokens + output
        self.judge.score(branches)

    def samples(self, exercises: list[Exercise]) -> list[list[Branch]]:
        """N whole solutions of each problem."""
        branches = [Branch(e) for e in exercises for _ in range(N)]
        self.continue_all(branches, one_step=False)
        return [branches[i : i + N] for i in range(0, len(branches), N)]

    def search(self, exercises: list[Exercise], aggregate: str, subtrees: int) -> list[str | None]:
        """Step-level search: `subtrees` = 1 is beam search with N/M kept, N/M is DVTS with one kept in each subtree."""
        value = AGGREGATES[aggregate]
        keep = N // M // subtrees
        groups = [[Branch(e) for _ in range(N // subtrees)] for e in exercises for _ in range(subtrees)]
        for _ in range(MAX_STEPS):
            self.continue_all([b for group in groups for b in group], one_step=True)
            if all(b.done for group in groups for b in group):
                break
            for i, group in enumerate(groups):
                best = sorted(group, key=lambda b: value(b.scores or [0.0]), reverse=True)[:keep]
                groups[i] = [
                    Branch(b.exercise, list(b.tokens), list(b.scores)) for b in best for _ in range(1 if b.done else M)
                ]
        answers = []
        for i in range(0, len(groups), subtrees):
            final = [b for group in groups[i : i + subtrees] for b in group if b.done]
            answers.append(max(final, key=lambda b: value(b.scores)).answer if final else None)
        return answers


def interval(rights: Sequence[bool]) -> tuple[float, float, float]:
    """Share and its 95 % Wilson interval."""
    n, p, z = len(rights), sum(rights) / len(rights), 1.959964
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)


def measure(
    problems: list[Exercise], small: TinyModel, large: TinyModel | None, prm: TinyModel, seed: int, temperature: float
) -> dict[str, list[bool]]:
    """Right or wrong per problem for every method."""
    results: dict[str, list[bool]] = {}

    def add(name: str, part: list[Exercise], answers: list[str | None]) -> None:
        results.setdefault(name, []).extend(a == e.answer for a, e in zip(answers, part, strict=True))

    bench = Bench(small, Judge(prm), temperature, seed)
    for start in range(0, len(problems), GROUP):
        part = problems[start : start + GROUP]
        for name, model in (("small greedy", small), ("large greedy", large)):
            if model is not None:
                outputs = generate(model, [policy_prompt(e.problem) for e in part])
                add(name, part, [extract(POLICY.decode(o)) for o in outputs])
        drawn = bench.samples(part)
        add("small sampled", [e for e in part for _ in range(N)], [b.answer for group in drawn for b in group])
        add(
            f"small pass@{N}",
            part,
            [e.answer if any(b.answer == e.answer for b in g) else None for e, g in zip(part, drawn, strict=True)],
        )
        add(f"small majority@{N}", part, [Counter(b.answer for b in g if b.answer).most_common(1)[0][0] for g in drawn])
        for aggregate, value in AGGREGATES.items():
            add(
                f"small best-of-{N} {aggregate}",
                part,
                [max(g, key=lambda b: value(b.scores or [0.0])).answer for g in drawn],
            )
            add(f"small beam {aggregate}", part, bench.search(part, aggregate, 1))
            add(f"small dvts {aggregate}", part, bench.search(part, aggregate, N // M))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--no-large", action="store_true")
    parser.add_argument("--output", help="write the figures to this JSON file")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    started = time.monotonic()
    large = None if args.no_large else load("policy-large")
    results = measure(
        held_out()[: args.problems], load("policy-small"), large, load("prm"), args.seed, args.temperature
    )
    table = {
        name: dict(zip(("share", "low", "high"), interval(rights), strict=True)) for name, rights in results.items()
    }
    for name, row in table.items():
        print(f"{name:28} {row['share']:6.1%}  [{row['low']:.1%}, {row['high']:.1%}]")
    print(f"{args.problems} problems, {time.monotonic() - started:.0f} s")
    if args.output:
        record = {"problems": args.problems, "seed": args.seed, "temperature": args.temperature, "results": table}
        with open(args.output, "w") as file:
            json.dump(record, file, indent=1)


if __name__ == "__main__":
    main()
