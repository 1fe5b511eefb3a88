"""What the PRM costs in a search: tokens through it, told apart by why they were fed, and its seconds beside a plain
prefill of as many tokens.

    PYTHONPATH=. python benchmarks/search/bench_prm.py --problems gsm8k.jsonl --limit 8 --in-flight 4 --save

Searches and prefills take turns in one process; every run has problems of its own. The prefill is of flat sequences, as
long as the search's branches, in batches of the same sizes as the passes of the search ("same"), and in full batches
("full").
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import branchwise as bw
from benchmarks.common import append
from benchmarks.engines import checked
from benchmarks.options import load_problems, open_engine, parse_search, search_parser
from benchmarks.search.replay import record, save_recording
from branchwise import _C
from branchwise.engine.runner import Feed
from branchwise.scoring.scorer import Scorer
from branchwise.tree import walk
from branchwise.types import Problem, Result


@dataclass(slots=True)
class Watch:
    """What the PRM did: rows of every pass, and seconds; `submit_s`: tokenising steps, `poll_s`: all else."""

    rows: list[int] = field(default_factory=list)
    submit_s: float = 0.0
    poll_s: float = 0.0


def watch(scorer: Scorer) -> Watch:
    """Put a scorer under watch, from now on."""
    seen, runner, clock = Watch(), scorer.runner, time.perf_counter
    forward, poll, submit = runner.forward, scorer.poll, scorer.submit

    def forward_seen(feeds: list[Feed]) -> Any:
        seen.rows.append(sum(len(feed.tokens) for feed in feeds))
        return forward(feeds)

    def poll_seen(**arguments: Any) -> Any:
        begin = clock()
        done = poll(**arguments)
        seen.poll_s += clock() - begin
        return done

    def submit_seen(*arguments: Any) -> Any:
        begin = clock()
        known = submit(*arguments)
        seen.submit_s += clock() - begin
        return known

    runner.forward, scorer.poll, scorer.submit = forward_seen, poll_seen, submit_seen  # type: ignore[method-assign]
    return seen


def token_terms(scorer: Scorer, results: Iterable[Result]) -> dict[str, int]:
    """Where the PRM's tokens come from.

    fed = prompts + generated - shared - blank + format + recut: steps that siblings wrote word for word are fed once,
    blank ones never; the format adds its markers; `recut` is what cutting the text by itself, without delimiter and
    end of sequence, adds or takes away.
    """
    terms = dict.fromkeys(("prompts", "generated", "shared", "blank", "format", "recut", "steps"), 0)
    overhead = [len(scorer.prm.format.step(i, "x")) - len(scorer.prm.tokenizer.encode("x")) for i in (0, 1)]
    for result in results:
        terms["prompts"] += len(scorer.prm.format.prompt(result.problem.text))
        for node in list(walk(result.tree))[1:]:
            terms["steps"] += 1
            terms["generated"] += len(node.tokens)
            if not node.text.strip():
                terms["blank"] += len(node.tokens)
            elif node.cost.prm_tokens == 0:
                terms["shared"] += len(node.tokens)
            else:
                markers = overhead[node.depth > 1]
                terms["format"] += markers
                terms["recut"] += node.cost.prm_tokens - markers - len(node.tokens)
    return terms


def prefill(scorer: Scorer, batches: Iterable[int], length: int) -> float:
    """Seconds to feed flat sequences of `length` tokens, one after the other, in batches of the given sizes."""
    tree, vocabulary = scorer.kv.tree, scorer.prm.model.config.vocab_size
    words = torch.randint(vocabulary // 2, (length,), generator=torch.Generator().manual_seed(0)).tolist()
    handle, done, seconds = tree.add_root(), 0, 0.0
    for size in batches:
        feeds, full = [], []
        while size:
            count = min(size, length - done)
            feeds.append(Feed(handle, words[done : done + count]))
            done, size = done + count, size - count
            if done == length:
                full.append(handle)
                handle, done = tree.add_root(), 0
        begin = time.perf_counter()
        scorer.runner.forward(feeds)
        seconds += time.perf_counter() - begin
        for each in full:
            tree.prune(each)
    tree.prune(handle)
    return seconds


def full_batches(tokens: int, size: int) -> Iterator[int]:
    """`tokens` in batches of `size`."""
    yield from [size] * (tokens // size)
    if tokens % size:
        yield tokens % size


def branch_length(results: list[Result]) -> int:
    """Mean tokens of a finished branch with its prompt."""
    lengths = [
        sum(len(step.tokens) for step in each.node.path) + result.tree.cost.prm_tokens
        for result in results
        for each in result.candidates
    ]
    return round(statistics.mean(lengths))


def bench(
    engine: bw.Engine, problems: list[Problem], options: argparse.Namespace, seen: Watch
) -> tuple[list[Result], dict[str, Any]]:
    """One search of all problems, then the prefills."""
    scorer = engine.judge
    assert scorer is not None
    seen.rows, seen.poll_s, seen.submit_s = [], 0.0, 0.0
    begin = time.perf_counter()
    results = checked(
        engine.solve_many(
            problems, options.strategy, n=options.n, expand=options.expand, max_in_flight=options.in_flight
        )
    )
    whole = time.perf_counter() - begin
    terms = token_terms(scorer, results)
    rows, prm_s, fed = list(seen.rows), seen.poll_s, sum(seen.rows)  # a copy: the prefills are seen, too
    length = branch_length(results)
    same_s, full_s = prefill(scorer, rows, length), prefill(scorer, full_batches(fed, scorer.batch_rows), length)
    expected = (
        terms["prompts"] + terms["generated"] - terms["shared"] - terms["blank"] + terms["format"] + terms["recut"]
    )
    text = terms["prompts"] + terms["generated"] - terms["shared"] - terms["blank"]
    return results, {
        "bench": "prm",
        "strategy": options.strategy,
        "n": options.n,
        "expand": options.expand,
        "problems": len(results),
        "in_flight": options.in_flight,
        "max_rows": options.rows,
        "tokens_fed": fed,
        "terms": terms,
        "recomputed": fed - expected,
        "fed_but_markers_to_generated_and_prompt": round((fed - terms["format"]) / text, 4),
        "passes": len(rows),
        "rows_median": statistics.median(rows),
        "branch_tokens": length,
        "search_s": round(whole, 3),
        "prm_s": round(prm_s, 3),
        "submit_s": round(seen.submit_s, 3),
        "prefill_same_s": round(same_s, 3),
        "prefill_full_s": round(full_s, 3),
        "ratio_same": round(prm_s / same_s, 3),
        "ratio_full": round(prm_s / full_s, 3),
        "isa": _C.isa(),
        "threads": torch.get_num_threads(),
        "dtype": engine.resolved.dtype,
        "weights": engine.resolved.weights,
        "policy": Path(options.policy).stem,
        "prm": Path(options.prm).stem,
    }


def main() -> None:
    parser = search_parser(__doc__, "prm")
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--rows", type=int, default=48, help="rows decoded at once")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--record", type=Path, help="keep the trees in this file, for bench_occupancy.py --replay")
    options = parse_search(parser)
    if options.quick:
        options.runs = 1
    each, options.limit = options.limit, options.limit * options.runs
    problems, records, trees = load_problems(options), [], []
    with open_engine(options, max_rows=options.rows) as engine:
        assert engine.judge is not None
        seen = watch(engine.judge)
        for begin in range(0, len(problems), each):
            results, counts = bench(engine, problems[begin : begin + each], options, seen)
            trees += record(engine, results)
            records.append(counts)
            print(json.dumps(counts), flush=True)
    if options.record:
        save_recording(options.record, options, trees)
    for name in ("ratio_same", "ratio_full"):
        print(f"{name}: median {statistics.median(record[name] for record in records):.3f}")
    if options.save:
        append("prm", records)


if __name__ == "__main__":
    main()
