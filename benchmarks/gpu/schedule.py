"""What a search asks of a GPU, counted from the schedule that the engine really runs, and divided by data sheets.

    PYTHONPATH=. python -m benchmarks.gpu.schedule            # the tables of docs/gpu.md
    PYTHONPATH=. python -m benchmarks.gpu.schedule --check    # fails if what the document computes is something else

Service, strategy, step engine, scorer, planner and launches are the real ones, over models of full size that nobody
computes: kernels are recorded instead of run, products are counted. Steps are as long as those of a recorded search.
Nothing here was measured on a GPU; what the host needs is measured on the machine that runs this.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.gpu.dry import Pass, dry_search
from benchmarks.gpu.host_time import HostClock
from benchmarks.gpu.sheets import GPUS, Gpu, pass_seconds, span, three

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "gpu.md"
RECORDING = ROOT / "benchmarks" / "search" / "recorded_beam.json"
BEGIN, END = "<!-- schedule -->", "<!-- end of schedule -->"
SEARCHES = (("beam", 16), ("beam", 64), ("dvts", 256))
STEPS = 16
Searches = dict[tuple[str, int], tuple[list[Pass], HostClock]]


def lengths() -> list[int]:
    """Tokens of every step of the recorded search."""
    problems = json.loads(RECORDING.read_text())["problems"]
    return [step[0] for problem in problems for step in problem["steps"].values()]


def counted(passes: list[Pass]) -> list[str]:
    """A row for each kind of pass."""
    rows = []
    for kind in ("iteration", "opening", "PRM pass"):
        some = [each for each in passes if each.kind == kind]
        count = sum(each.times for each in some)

        def mean(name: str, some: list[Pass] = some, count: int = count) -> float:
            return sum(getattr(each, name) * each.times for each in some) / count

        working = sum(each.working * each.times for each in some) / sum(each.programs * each.times for each in some)
        rows.append(
            f"{kind} | {count} | {mean('rows'):.0f} | {mean('launches'):.0f} | {mean('programs'):,.0f} | {working:.0%}"
            f" | {mean('moved') / 1e9:.2f} | {mean('flops') / 1e12:.2f}"
        )
    return rows


def timed(passes: list[Pass], gpu: Gpu) -> str:
    """What the passes take on a GPU, best and worst, and whose time it is."""
    low, high, parts = 0.0, 0.0, dict.fromkeys(("iteration", "opening", "PRM pass"), 0.0)
    for each in passes:
        best, worst = pass_seconds(gpu, each.moved, each.flops)
        low, high = low + best * each.times, high + worst * each.times
        parts[each.kind] += (best + worst) / 2 * each.times
    shares = " | ".join(f"{part / sum(parts.values()):.0%}" for part in parts.values())
    iterations = [each for each in passes if each.kind == "iteration"]
    each = [pass_seconds(gpu, one.moved, one.flops) for one in iterations for _ in range(one.times)]
    step = span(*(1e3 * sum(times) / len(each) for times in zip(*each, strict=True)))
    return f"{step} | {shares} | {span(low, high)} | {three(3600 / high)} to {three(3600 / low)}"


def on_host(clock: HostClock) -> str:
    """What the host needs: middle and 10 to 90 % of gaps, then by row, and of the passes that it launches."""
    low, middle, high = np.percentile(1e3 * np.array(clock.gaps), (10, 50, 90))
    row = np.median(1e6 * np.array(clock.gaps) / np.array(clock.rows))
    passes = " | ".join(f"{1e3 * np.median(clock.passes[kind]):.1f}" for kind in ("opening", "PRM pass"))
    return f"{len(clock.gaps)} | {middle:.1f} ({low:.1f} to {high:.1f}) | {row:.0f} | {passes}"


def host_table(found: Searches) -> str:
    """Of the machine that runs this, as Markdown."""
    rows = [
        "| search | gaps | gap between bursts, ms | a row, µs | launching an opening, ms | a PRM pass, ms |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*rows, *(f"| {name}, N = {n} | {on_host(clock)} |" for (name, n), (_, clock) in found.items())])


def searches() -> Searches:
    """All that the tables are about."""
    return {(name, n): dry_search(name, n, lengths(), STEPS) for name, n in SEARCHES}


def tables(found: Searches) -> str:
    """Both computed tables of the document, as Markdown."""
    first = [
        "| search | pass | passes | rows | launches | programs | with work | GB | TFLOP |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, n), (passes, _) in found.items():
        first += [f"| {name}, N = {n} | {row} |" for row in counted(passes)]
    second = [
        "| GPU | search | iteration, ms | iterations | openings | PRM | search, s | problems/h |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for gpu in GPUS:
        second += [
            f"| {gpu.name} | {name}, N = {n} | {timed(passes, gpu)} |" for (name, n), (passes, _) in found.items()
        ]
    return "\n".join([*first, "", *second])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with docs/gpu.md")
    check, ran = parser.parse_args().check, searches()
    found = tables(ran)
    if not check:
        print(f"{found}\n\n{host_table(ran)}")
        return
    said = DOCUMENT.read_text().split(BEGIN)[1].split(END)[0].strip()
    if said != found:
        sys.exit(f"{DOCUMENT.name} differs from what was computed:\n{found}")


if __name__ == "__main__":
    main()
