"""One budget for all problems beside the same budget spread evenly, on the bundled held-out problems.

PYTHONPATH=. python benchmarks/quality/budget.py --save

Every seed: DVTS with N solutions for each problem, then `auto` with what that took, in written and judged tokens, for
all of them together. Prints accuracies and the paired difference with its 95 % interval; --save appends them to
results/budget.jsonl.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import branchwise as bw
from benchmarks.paired import difference
from branchwise.assets import asset_path
from branchwise.control.budget import tokens_of


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, nargs="+", default=[8], help="solutions of every problem, spread evenly")
    parser.add_argument("--most", type=int, default=64, help="solutions of one problem from the common budget")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=400, help="problems")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args(arguments)
    rows = [json.loads(line) for line in asset_path("problems.jsonl").read_text().splitlines()[: args.limit]]
    problems = [bw.Problem(row["id"], row["problem"], answer=row["answer"]) for row in rows]
    records = []
    with bw.Engine(max_tokens=256) as engine:
        for n in args.n:
            records.append(compare(engine, problems, n, args.most, range(args.seeds)))
            print(json.dumps(records[-1]), flush=True)
    if args.save:
        from benchmarks import common

        common.append("budget", records)


def compare(
    engine: bw.Engine, problems: Sequence[bw.Problem], n: int, most: int, seeds: Sequence[int]
) -> dict[str, Any]:
    """Accuracies and tokens of both, over problems and seeds; the difference is one of problems."""
    shares = [dict.fromkeys((problem.id for problem in problems), 0.0) for _ in range(2)]
    tokens, drawn = [0, 0], 0
    for seed in seeds:
        even = list(engine.solve_many(problems, "dvts", n=n, expand=4, seed=seed, reuse=False))
        budget = sum(tokens_of(result.cost) for result in even)
        shared = list(engine.solve_many(problems, "auto", n=most, seed=seed, budget_tokens=budget))
        for place, results in enumerate((even, shared)):
            tokens[place] += sum(tokens_of(result.cost) for result in results)
            for result in results:
                shares[place][result.problem.id] += bool(result.correct) / len(seeds)
        drawn += sum(len(result.candidates) for result in shared)
    accuracies = [sum(each.values()) / len(problems) for each in shares]
    gain, half = difference(shares[1], shares[0])
    return {
        "n": n,
        "most": most,
        "problems": len(problems),
        "seeds": len(seeds),
        "even": {"accuracy": accuracies[0], "tokens": tokens[0]},
        "shared": {"accuracy": accuracies[1], "tokens": tokens[1], "solutions": drawn},
        "gain": gain,
        "half_interval95": half,
    }


if __name__ == "__main__":
    main()
