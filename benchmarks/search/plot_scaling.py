"""Draws the curves that bench_scaling.py measured last: docs/images/scaling.svg. Needs matplotlib (the extra `bench`).

PYTHONPATH=. python benchmarks/search/plot_scaling.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.common import RESULTS

TITLES = {"n": "branches N", "prompt": "prompt tokens", "steps": "steps", "in_flight": "problems in flight (N = 4)"}
PARTS = {"policy_ms": "policy", "prm_ms": "PRM"}


def last_runs(path: Path) -> list[dict[str, Any]]:
    """Of every curve, the records of its last run in a results file."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    last = {record["curve"]: record["group"] for record in records}
    return [record for record in records if record["group"] == last[record["curve"]]]


def draw(records: list[dict[str, Any]], out: Path) -> None:
    """One panel a curve: milliseconds per accepted token, the shares of policy and PRM stacked."""
    mpl.rcParams.update({"svg.hashsalt": "branchwise", "font.size": 9})  # the same figures, the same file
    figure, panels = plt.subplots(1, len(TITLES), figsize=(13, 3.2), layout="constrained")
    for panel, (curve, title) in zip(panels, TITLES.items(), strict=True):
        points = sorted((each for each in records if each["curve"] == curve), key=lambda each: each[curve])
        x = [point[curve] for point in points]
        panel.stackplot(x, *([point[part] for point in points] for part in PARTS), labels=PARTS.values(), alpha=0.6)
        panel.plot(x, [point["ms_per_accepted_token"] for point in points], "ko-", label="all", markersize=3)
        panel.set(xscale="log", xticks=x, xticklabels=x, xlabel=title, ylim=(0, None))
        panel.minorticks_off()
    panels[0].set_ylabel("ms per accepted token")
    panels[-1].legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS / "scaling.jsonl")
    parser.add_argument("--out", type=Path, default=RESULTS.parents[1] / "docs" / "images" / "scaling.svg")
    options = parser.parse_args()
    draw(last_runs(options.results), options.out)
    print(options.out)


if __name__ == "__main__":
    main()
