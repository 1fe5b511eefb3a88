"""What the cache of prefixes costs searches that find nothing in it.

    PYTHONPATH=. python benchmarks/search/bench_prefix_cache.py --save

Two engines of the bundled pair, with and without the cache, search the same new problems in turn, a few at a time,
after both have filled their KV: memory that was never used before would count as the cache's. Processor time, so that
what else runs on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import branchwise as bw
from benchmarks.common import append
from branchwise.assets import asset_path

KV_MEMORY = 64 << 20


def main() -> None:
    """Measure, print, and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--warm", type=int, default=200, help="problems that fill the KV")
    parser.add_argument("--problems", type=int, default=200, help="that are measured")
    parser.add_argument("--at-once", type=int, default=10, help="problems before the other engine's turn")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.warm = args.problems = 20
    rows = [json.loads(line) for line in asset_path("problems.jsonl").read_text().splitlines()]
    problems = [bw.Problem(row["id"], row["problem"]) for row in rows[: args.warm + args.problems]]
    options = {"max_tokens": 256, "threads": 1, "kv_memory": KV_MEMORY}
    with bw.Engine(prefix_cache=False, **options) as without, bw.Engine(prefix_cache=True, **options) as cached:
        pair = (without, cached)
        for engine in pair:
            searched(engine, problems[: args.warm], args.n)
        times: list[list[float]] = []
        for turn, first in enumerate(range(args.warm, len(problems), args.at_once)):
            part = problems[first : first + args.at_once]
            order = pair if turn % 2 else pair[::-1]
            took = {id(engine): searched(engine, part, args.n) for engine in order}
            times.append([took[id(engine)] for engine in pair])
    record = {
        "n": args.n,
        "problems": len(problems) - args.warm,
        "without_s": sum(each for each, _ in times),
        "cached_s": sum(each for _, each in times),
        "speed": statistics.median(one / other for one, other in times),
    }
    print(json.dumps(record))
    if args.save:
        append("prefix_cache", [record])


def searched(engine: bw.Engine, problems: list[bw.Problem], n: int) -> float:
    """Processor seconds of a beam search of each."""
    begin = time.process_time()
    for _ in engine.solve_many(problems, "beam", n=n, seed=len(problems)):
        pass
    return time.process_time() - begin


if __name__ == "__main__":
    main()
