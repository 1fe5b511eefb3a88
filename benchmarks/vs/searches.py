"""The commands `beam` and `dvts`: whole searches, over the same tree (tape) or each side over its own (free)."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmarks.common import append
from benchmarks.vs.compare import started, summary
from benchmarks.vs.protocol import Json, Side, TimedLock
from benchmarks.vs.questions import correct, make_questions, read_questions, stop_ids
from benchmarks.vs.sides import search_sides
from benchmarks.vs.workloads import PROMPT, SearchTask, Tape
from branchwise.text.tokenizer import Tokenizer
from branchwise.weights import open_checkpoint

Search = Callable[[Side, SearchTask], Json]


def beam(options: argparse.Namespace) -> None:
    """Beam search over problems of a file: problems/hour at equal accepted tokens."""
    if not options.data.exists():
        print(f"skipped: {options.data} is not there; --data FILE names a JSONL file with id, problem and answer")
        return
    tokenizer = open_checkpoint(options.policy).tokenizer()
    questions = read_questions(str(options.policy), options.data, options.problems)
    free = SearchTask(
        "beam", options.n, options.expand, questions, options.max_steps, options.max_tokens, options.max_step_tokens,
        options.in_flight, options.top_p, stop_ids=stop_ids(tokenizer),
    )  # fmt: skip
    with started(search_sides(options), options.isa) as sides:
        if "tape" in options.modes:
            with options.lock:
                tape = sides[0].ask("search", task=free.to_json(), record=True)["tape"]
            compare_searches(sides, replace(free, tape=Tape(tape)), options, search_in_slices(options), tokenizer)
        if "free" in options.modes:
            compare_searches(sides, free, options, search_in_slices(options), tokenizer)


def dvts(options: argparse.Namespace) -> None:
    """DVTS with forced steps of one length: what many branches and long solutions cost."""
    policy = str(options.policy)
    if options.data.exists():
        questions = read_questions(policy, options.data, options.problems)
    else:
        print(f"{options.data} is not there: a problem of our own instead (--data FILE names a JSONL file)")
        questions = make_questions(policy, [{"id": "own", "problem": PROMPT, "answer": "72"}])
    tokenizer = open_checkpoint(policy).tokenizer()
    tokens = options.steps * options.length
    tape = Tape(length=options.length, steps=options.steps)
    task = SearchTask(
        "dvts", options.n, options.expand, questions, options.steps, tokens, options.length, options.in_flight,
        options.top_p, tape=tape,
    )  # fmt: skip
    with started(search_sides(options), options.isa) as sides:
        search = search_by_levels(options) if options.levels else search_in_slices(options)
        compare_searches(sides, task, options, search, tokenizer)


def search_in_slices(options: argparse.Namespace) -> Search:
    """Problems that the default structure takes one by one are asked for one by one: the lock can be passed on."""

    def search(side: Side, task: SearchTask) -> Json:
        parts = [[each] for each in task.questions] if side.name.endswith("-default") else [task.questions]
        replies = []
        for part in parts:
            with options.lock:
                replies.append(side.ask("search", task=replace(task, questions=part).to_json()))
        return merged(replies)

    return search


def search_by_levels(options: argparse.Namespace) -> Search:
    """As above, but of the default structure some levels only are run; those between are interpolated."""
    whole = search_in_slices(options)

    def search(side: Side, task: SearchTask) -> Json:
        if not side.name.endswith("-default"):
            return whole(side, task)
        replies = []
        for question in task.questions:
            levels = {}
            for depth in options.levels:
                with options.lock:
                    levels[depth] = side.ask("level", task=replace(task, questions=[question]).to_json(), depth=depth)
            replies.append(interpolated(levels, task))
        return {**merged(replies), "interpolated_from_steps": options.levels}

    return search


SUMS = (
    "seconds", "generated_tokens", "accepted_tokens", "recomputed_tokens", "prm_tokens", "prm_recomputed_tokens",
    "prm_seconds", "kv_bytes_read",
)  # fmt: skip


def merged(replies: Sequence[Json]) -> Json:
    """The replies for some problems, one after the other, as one reply."""
    total: Json = {name: sum(each[name] for each in replies) for name in SUMS if name in replies[0]}
    for name in ("problem_seconds", "solutions"):
        total[name] = [item for each in replies for item in each[name]]
    slots = sum(each["generated_tokens"] / max(each["row_occupancy"], 1e-9) for each in replies)
    total["row_occupancy"] = total["generated_tokens"] / slots
    total["peak_rss_bytes"] = max(each["peak_rss_bytes"] for each in replies)
    return total


def interpolated(levels: dict[int, Json], task: SearchTask) -> Json:
    """A whole search from some of its levels, straight lines between them."""
    depths = sorted(levels)
    assert depths[0] == 1, "the first level must be measured"
    assert depths[-1] == task.max_steps, f"the last level, {task.max_steps}, must be measured"

    def total(name: str) -> float:
        sums = 0.0
        for depth in range(1, task.max_steps + 1):
            low = max(each for each in depths if each <= depth)
            high = min(each for each in depths if each >= depth)
            share = (depth - low) / (high - low) if high > low else 0.0
            sums += levels[low][name] * (1 - share) + levels[high][name] * share
        return sums

    reply: Json = {name: total(name) for name in SUMS if name in levels[1]}
    last = task.n * (task.tape.length if task.tape else 0)
    kept = reply["generated_tokens"] - last
    reply["accepted_tokens"] = round(kept / task.expand + last)
    most = max(each["peak_rss_bytes"] for each in levels.values())
    occupancy = statistics.fmean(each["row_occupancy"] for each in levels.values())
    extra = {"problem_seconds": [reply["seconds"]], "solutions": [], "row_occupancy": occupancy}
    return {**reply, **extra, "peak_rss_bytes": most}


def compare_searches(
    sides: Sequence[Side], task: SearchTask, options: argparse.Namespace, search: Search, tokenizer: Tokenizer
) -> None:
    """Let the sides take turns, print medians and whether all accepted as many tokens, and save the records."""
    mode = "tape" if task.tape else "free"
    print(f"{task.strategy}, {mode} mode: n={task.n}, {len(task.questions)} problems, {task.in_flight} in flight")
    about: Json = {
        "bench": "vs", "group": f"{task.strategy}-{time.time_ns() // 1_000_000}", "workload": task.strategy,
        "mode": mode, "n": task.n, "expand": task.expand, "problems": len(task.questions), "top_p": task.top_p,
        "in_flight": task.in_flight, "max_steps": task.max_steps, "model": options.policy.stem, "isa": options.isa,
    }  # fmt: skip
    answers = {each.id: each.answer for each in task.questions}
    records = []
    warm_up(sides, task, options.lock)
    for run in range(options.runs):
        for side in sides:
            if side.name.endswith("-default") and run >= options.default_runs:
                continue
            reply = search(side, replace(task, seed=run))
            solutions = reply.pop("solutions")
            if mode == "free":
                reply["right"] = correct(solutions, answers, tokenizer)
            known = {"versions": side.about["versions"], "flags": side.about["flags"]}
            records.append({**about, "side": side.name, "run": run, **reply, **rates(reply, len(answers)), **known})
            print(f"  {side.name}, run {run}: {describe(records[-1])}", flush=True)
            if options.save:
                append("vs", records[-1:])
    for side in sides:
        if mine := [record for record in records if record["side"] == side.name]:
            print(f"  {side.name:<20} {summary(mine, records)}", flush=True)
    if mode == "tape":
        print(f"  {same_tokens(records)}")


def warm_up(sides: Sequence[Side], task: SearchTask, lock: TimedLock) -> None:
    """One short search on every side: whatever is compiled or packed when it is first used is there afterwards."""
    few = replace(task, questions=task.questions[:1])
    if task.strategy == "dvts":
        few = replace(few, tape=Tape(length=8, steps=2), max_steps=2)
    for side in sides:
        with lock:
            side.ask("search", task=few.to_json())


def same_tokens(records: Sequence[Json]) -> str:
    """Whether all runs accepted as many tokens: in tape mode they must."""
    counts = sorted({record["accepted_tokens"] for record in records})
    return f"accepted tokens: {counts[0]} on all sides" if len(counts) == 1 else f"ACCEPTED TOKENS DIFFER: {counts}"


def rates(reply: Json, problems: int) -> Json:
    """What people compare, from the counts of one run."""
    seconds, each = reply["seconds"], sorted(reply["problem_seconds"])
    return {
        "problems_per_hour": problems / seconds * 3600,
        "problem_s_p50": statistics.median(each),
        "problem_s_p95": each[min(len(each) - 1, round(0.95 * (len(each) - 1)))],
        "generated_tokens_per_s": reply["generated_tokens"] / seconds,
        "accepted_tokens_per_s": reply["accepted_tokens"] / seconds,
        "prm_tokens_per_s": reply["prm_tokens"] / max(reply["prm_seconds"], 1e-9),
    }


def describe(record: Json) -> str:
    """One run in a line."""
    right = f", {record['right']} right" if "right" in record else ""
    return (
        f"{record['seconds']:.1f} s, {record['problems_per_hour']:.0f} problems/h, {record['accepted_tokens']:.0f} of "
        f"{record['generated_tokens']:.0f} tokens accepted, {record['prm_tokens']:.0f} PRM tokens in "
        f"{record['prm_seconds']:.1f} s, {record['recomputed_tokens']:.0f} recomputed, "
        f"{record['row_occupancy']:.0%} of rows{right}"
    )
