"""Sample solutions from a trained policy: the on-policy part of the PRM's data, one JSON line per problem."""

from __future__ import annotations

import argparse
import itertools
import json
import time

import torch
from generation import generate
from model import build
from task import exercises, held_out
from vocabulary import POLICY, policy_prompt

from training import RUNS

SEED = 3
GROUP = 128  # problems sampled in one batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="policy-small", help="run whose checkpoint is sampled")
    parser.add_argument("--problems", type=int, default=14_000)
    parser.add_argument("--samples", type=int, default=4, help="solutions of each problem")
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument("--output", default="samples", help="name of the file in runs/")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = build("policy-small", len(POLICY))
    model.load_state_dict(torch.load(RUNS / f"{args.run}.pt", weights_only=True)["model"])
    generator = torch.Generator().manual_seed(SEED)
    stream = itertools.islice(exercises(SEED, frozenset(e.problem for e in held_out())), args.problems)
    partial, started = RUNS / f"{args.output}.partial", time.monotonic()
    with partial.open("w") as file:
        for group in iter(lambda: list(itertools.islice(stream, GROUP)), []):
            prompts = [policy_prompt(e.problem) for e in group for _ in range(args.samples)]
            texts = [POLICY.decode(o) for o in generate(model, prompts, args.temperature, generator)]
            for i, exercise in enumerate(group):
                solutions = sorted(set(texts[i * args.samples : (i + 1) * args.samples]))
                file.write(json.dumps({"problem": exercise.problem, "solutions": solutions}) + "\n")
    partial.replace(RUNS / f"{args.output}.jsonl")
    print(f"{args.problems} problems in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
