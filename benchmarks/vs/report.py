"""Table and plot of the comparison, from the newest group of every case in the results file."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from benchmarks.vs.compare import tokens_per_s
from benchmarks.vs.protocol import Json

CASE = ("workload", "mode", "model", "n", "rows", "top_p")
COLUMNS = (
    ("problems/h", "problems_per_hour", "{:.0f}"),
    ("s/problem p50", "problem_s_p50", "{:.1f}"),
    ("p95", "problem_s_p95", "{:.1f}"),
    ("tokens/s", "generated_tokens_per_s", "{:.0f}"),
    ("accepted/s", "accepted_tokens_per_s", "{:.0f}"),
    ("PRM tokens", "prm_tokens", "{:,.0f}"),
    ("PRM tokens/s", "prm_tokens_per_s", "{:,.0f}"),
    ("recomputed", "recomputed_tokens", "{:,.0f}"),
    ("rows busy", "row_occupancy", "{:.0%}"),
    ("KV GB read", "kv_bytes_read", "{:.1f}"),
    ("peak GB", "peak_rss_bytes", "{:.1f}"),
)
SAMPLED = ("sampling", "requests")  # workloads without a search
GIGA = {"kv_bytes_read", "peak_rss_bytes"}


def report(options: argparse.Namespace) -> None:
    """Markdown table and plot of the newest records."""
    if not options.results.exists():
        sys.exit(f"{options.results} is not there: run `python -m benchmarks.vs sampling --save` first")
    cases = newest(map(json.loads, options.results.read_text().splitlines()), options.isa)
    print(table(cases))
    plots(cases, options.plot)


def newest(records: Iterable[Json], isas: Sequence[str]) -> list[list[Json]]:
    """The records of the last group of every case: by instruction set, then sampling before searches, by N."""
    groups: dict[str, list[Json]] = {}
    for record in records:
        if record["isa"] in isas:
            groups.setdefault(record["group"], []).append(record)
    cases = {(isa_of(group), *map(group[0].get, CASE)): group for group in groups.values()}
    return sorted(
        cases.values(), key=lambda case: (isa_of(case), case[0]["workload"] not in SAMPLED, case[0].get("rows", 0))
    )


def isa_of(case: Sequence[Json]) -> str:
    """The instruction set that our side used."""
    return next((str(record["flags"]["isa"]) for record in case if "isa" in record.get("flags", {})), case[0]["isa"])


def by_side(records: Sequence[Json]) -> dict[str, list[Json]]:
    """The runs of each side, ours first."""
    sides: dict[str, list[Json]] = {}
    for record in records:
        sides.setdefault(record["side"], []).append(record)
    return sides


def median(runs: Sequence[Json], name: str) -> float | None:
    """The median over the runs; None where they lack it."""
    values = [run[name] for run in runs if name in run]
    return statistics.median(values) if values else None


def speed(runs: Sequence[Json]) -> float:
    """Median tokens/s: accepted ones in a search, generated ones elsewhere."""
    return statistics.median(map(tokens_per_s, runs))


def title(case: Sequence[Json]) -> str:
    """A case in words."""
    record, isa = case[0], isa_of(case)
    if record["workload"] in SAMPLED:
        return f"{record['workload']}, N = {record['rows']}, top-p {record['top_p']}, {isa}"
    more = f"{record['problems']} problems, {record['in_flight']} in flight"
    return f"{record['workload']}, N = {record['n']}, M = {record['expand']}, {record['mode']} mode, {more}, {isa}"


def table(cases: Sequence[Sequence[Json]]) -> str:
    """Markdown: all sampling in one table, then one for each search."""
    parts = []
    sampling = [case for case in cases if case[0]["workload"] in SAMPLED]
    if sampling:
        parts += ["| case | side | runs | tokens/s | spread | ours is |", "|---|---|---|---|---|---|"]
        for case in sampling:
            first = speed(next(iter(by_side(case).values())))
            for side, runs in by_side(case).items():
                speeds = sorted(map(tokens_per_s, runs))
                spread = f"{speeds[0]:.0f} to {speeds[-1]:.0f}"
                ratio = f"{first / speed(runs):.2f}x"
                parts.append(f"| {title(case)} | {side} | {len(runs)} | {speed(runs):.0f} | {spread} | {ratio} |")
    for case in cases:
        if case[0]["workload"] not in SAMPLED:
            parts += ["", *search_table(case)]
    return "\n".join(parts)


def search_table(case: Sequence[Json]) -> list[str]:
    """One search: a row a side, all that was counted."""
    sides = by_side(case)
    first = speed(next(iter(sides.values())))
    names = [(name, key, shape) for name, key, shape in COLUMNS if median(case, key) is not None]
    lines = [
        f"**{title(case)}**",
        "",
        "| side | runs | ours is | " + " | ".join(name for name, _, _ in names) + " |",
    ]
    lines.append("|---" * (len(names) + 3) + "|")
    for side, runs in sides.items():
        cells = []
        for _, key, shape in names:
            value = median(runs, key)
            cells.append("" if value is None else shape.format(value / (1e9 if key in GIGA else 1)))
        levels = runs[0].get("interpolated_from_steps")
        label = f"{side} (interpolated from steps {', '.join(map(str, levels))})" if levels else side
        lines.append(f"| {label} | {len(runs)} | {first / speed(runs):.2f}x | " + " | ".join(cells) + " |")
    return lines


def plots(cases: Sequence[Sequence[Json]], path: Path) -> None:
    """One picture for each instruction set, its name in that of the file."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: pip install '.[bench]' brings matplotlib", file=sys.stderr)
        return
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    for isa, those in groupby(cases, key=isa_of):
        plot(list(those), path.with_stem(f"{path.stem}-{isa}"))


def plot(cases: Sequence[Sequence[Json]], path: Path) -> None:
    """Speed relative to the fastest side, one group of bars a case."""
    from matplotlib import pyplot

    names = list(dict.fromkeys(record["side"] for case in cases for record in case))
    figure, axes = pyplot.subplots(figsize=(9, 0.8 + 0.24 * sum(len(by_side(case)) + 1 for case in cases)))
    colours = dict(zip(names, pyplot.get_cmap("tab10").colors * 3, strict=False))
    place, ticks = 0.0, []
    for case in cases:
        sides = by_side(case)
        best = max(speed(runs) for runs in sides.values())
        begin = place
        for side, runs in sides.items():
            mark = " (interpolated)" if "interpolated_from_steps" in runs[0] else ""
            axes.barh(place, speed(runs) / best, color=colours[side], height=0.9)
            axes.text(speed(runs) / best + 0.005, place, f"{speed(runs):.0f}  {side}{mark}", va="center", fontsize=7)
            place += 1
        ticks.append(((begin + place - 1) / 2, title(case).replace(" mode, ", " mode\n")))
        place += 1
    axes.set_yticks([at for at, _ in ticks], [text for _, text in ticks], fontsize=7)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3)
    axes.set_xlabel("tokens/s (accepted ones in searches), relative to the fastest side of each case")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150, bbox_inches="tight")
    print(f"wrote {path}", file=sys.stderr)
