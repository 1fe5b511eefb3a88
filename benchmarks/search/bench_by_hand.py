"""What growing trees by hand costs: one beam search by `solve_many`, and by `expand_many` and `prune`, level by level.

    PYTHONPATH=. python benchmarks/search/bench_by_hand.py --rounds 9 --save

Both grow the same trees, which is checked, in turn, with another seed every round. By hand all problems wait for the
last step of a level, and every level is a call; `solve_many` lets each go on when its own steps are scored. Tokens are
all that were generated; seconds are of whole searches, prompts and the choice of the answers included. The ratio is
by hand over `solve_many`: the median of the rounds, and the distance between their quartiles.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

import branchwise as bw
from benchmarks.common import CLOCKS, report
from benchmarks.engines import checked
from benchmarks.options import (
    load_problems,
    model_parser,
    open_engine,
    parse_search,
    problem_options,
    search_options,
)
from branchwise import _C
from branchwise.assets import asset_path
from branchwise.search.by_hand import StepTree
from branchwise.strategies import BeamSearch, State
from branchwise.strategies.candidates import choose_among, ended, rank
from branchwise.tree import walk
from branchwise.types import Node, Problem

Found = dict[str, tuple[int, str | None]]
"""Generated tokens and the answer, by question."""
Wish = tuple[StepTree, Node, int]


def solved(engine: bw.Engine, questions: Sequence[str], beam: BeamSearch, seed: int) -> Found:
    """By the engine."""
    results = checked(engine.solve_many(questions, beam, max_in_flight=len(questions), seed=seed))
    return {result.problem.text: (result.cost.generated_tokens, result.answer) for result in results}


def by_hand(engine: bw.Engine, questions: Sequence[str], beam: BeamSearch, seed: int) -> Found:
    """By the same rule, level by level."""
    with ExitStack() as stack:
        trees = [stack.enter_context(engine.open(each, branches=beam.n, seed=seed)) for each in questions]
        finished: dict[StepTree, list[Node]] = {tree: [] for tree in trees}
        wishes = [(tree, tree.root, beam.n) for tree in trees]
        while wishes:
            level: dict[StepTree, list[Node]] = {tree: [] for tree, _, _ in wishes}
            for (tree, _, _), children in zip(wishes, engine.expand_many(wishes, score=True), strict=True):
                level[tree] += children
            wishes = [wish for tree, steps in level.items() for wish in next_level(tree, steps, finished[tree], beam)]
        return {
            question: (tokens_of(tree.root), answer_of(question, tree.root, finished[tree], beam))
            for question, tree in zip(questions, trees, strict=True)
        }


def next_level(tree: StepTree, steps: list[Node], finished: list[Node], beam: BeamSearch) -> list[Wish]:
    """The best steps share the slots of all that can go on, as `LevelSearch` has it; the others are pruned."""
    finished += [step for step in steps if ended(step, beam.max_steps)]
    ranked = sorted(
        (step for step in steps if not ended(step, beam.max_steps)), key=lambda step: rank(step, beam.aggregate)
    )
    if not ranked:
        return []
    kept = max(1, len(ranked) // beam.expand)
    each, extra = divmod(len(ranked), kept)
    for step in ranked[kept:]:
        tree.prune(step)
    return [(tree, step, each + (place < extra)) for place, step in enumerate(ranked[:kept])]


def tokens_of(root: Node) -> int:
    return sum(len(node.tokens) for node in walk(root))


def answer_of(question: str, root: Node, finished: list[Node], beam: BeamSearch) -> str | None:
    chosen = choose_among(State(Problem("", question), root, finished), beam.aggregate, beam.vote).chosen
    return None if chosen is None else chosen.answer


def bench(engine: bw.Engine, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All rounds as one record, after one to warm up."""
    questions = [problem.text for problem in load_problems(options)]
    beam, clock = BeamSearch(options.n, options.expand), CLOCKS[options.clock]
    ways = {"solve_many": solved, "by_hand": by_hand}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    tokens: list[int] = []
    for seed in range(-1, options.rounds):
        found: dict[str, Found] = {}
        for name in sorted(ways, reverse=seed % 2 == 0):  # now the one first, now the other
            begin = clock()
            found[name] = ways[name](engine, questions, beam, max(seed, 0))
            seconds = clock() - begin
            total = sum(count for count, _ in found[name].values())
            if seed >= 0:
                speeds[name].append(total / seconds)
        assert found["solve_many"] == found["by_hand"], "the trees differ"
        tokens.append(total)
    ratios = [hand / whole for hand, whole in zip(speeds["by_hand"], speeds["solve_many"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    yield {
        "bench": "by_hand",
        "strategy": beam.name,
        "n": options.n,
        "expand": options.expand,
        "problems": len(questions),
        "rounds": options.rounds,
        "generated_tokens": sum(tokens[1:]),
        "clock": options.clock,
        "solve_many_tokens_per_s": round(statistics.median(speeds["solve_many"]), 1),
        "by_hand_tokens_per_s": round(statistics.median(speeds["by_hand"]), 1),
        "ratio": round(middle, 4),
        "ratio_iqr": round(high - low, 4),
        "isa": _C.isa(),
        "threads": torch.get_num_threads(),
        "dtype": engine.resolved.dtype,
        "weights": engine.resolved.weights,
        "policy": Path(options.policy).stem,
        "prm": Path(options.prm).stem,
    }


def main() -> None:
    parser = model_parser(__doc__, "by_hand")
    search_options(parser)
    problem_options(parser)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: for one thread on a busy machine")
    parser.set_defaults(policy=str(asset_path("policy-small")), dtype="auto")
    options = parse_search(parser)
    if options.quick:
        options.rounds = 2
    with open_engine(options) as engine:
        report("by_hand", bench(engine, options), options.save)


if __name__ == "__main__":
    main()
