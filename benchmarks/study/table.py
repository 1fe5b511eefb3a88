"""What a folder of results says: every search and every vote by accuracy, tokens and FLOPs, and how good the judge was.

PYTHONPATH=. python benchmarks/study/table.py dev.results --larger larger.results --plot study.svg --save study

Votes are taken again from the samples of best-of-N, for every N, so that all of them share their samples. Tokens and
FLOPs are those of solutions and of what judged them, a problem; the prompt, which all solutions share, is left out.
Differences are problem by problem, with half of their 95 % intervals.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from branchwise.answers.grade import Grader
from branchwise.answers.vote import Vote, choose
from branchwise.confidence import Measure
from branchwise.control.quality import expected_error
from branchwise.report.folder import read_cells
from branchwise.report.intervals import Z95, clustered
from branchwise.report.kept import Kept, candidates, first
from branchwise.strategies.candidates import by_measure
from branchwise.training.metrics import auc, auc_within

SAMPLES = ("weighted_best_of_n", "best_of_n", "majority", "confidence")
RULES: dict[str, tuple[Vote, Measure | None]] = {
    "majority": ("majority", None),
    "confidence, weighted": ("weighted", "tail"),
    "certainty, borda": ("borda", "certainty"),
    "best score": ("max", None),
    "weighted by scores": ("weighted", None),
}
Records = dict[str, dict[str, Any]]


@dataclass
class Line:
    """One way to answer. right, tokens, flops: of each problem, one number a seed"""

    name: str
    n: int | None
    right: dict[str, list[bool]] = field(default_factory=dict)
    tokens: list[float] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)

    def add(self, problem: str, right: bool, kept: Sequence[Kept]) -> None:
        """Another answer, from these solutions."""
        self.right.setdefault(problem, []).append(right)
        self.tokens.append(sum(each["tokens"] + each["prm_tokens"] for each in kept))
        self.flops.append(sum(each["flops"] + each["prm_flops"] for each in kept))

    @property
    def shares(self) -> dict[str, float]:
        """How often each problem was right."""
        return {problem: sum(right) / len(right) for problem, right in self.right.items()}

    @property
    def accuracy(self) -> float:
        """Mean over problems."""
        return math.fsum(self.shares.values()) / len(self.right)

    def record(self, base: Line | None) -> dict[str, Any]:
        """As a line of a results file. base: what the difference is to"""
        seeds = max(map(len, self.right.values()))
        return {
            "name": self.name,
            "n": self.n,
            "problems": len(self.right),
            "seeds": seeds,
            "accuracy": self.accuracy,
            "interval95": clustered(list(self.shares.values()), seeds),
            "tokens": math.fsum(self.tokens) / len(self.tokens),
            "flops": math.fsum(self.flops) / len(self.flops),
            "beyond": None if base is None else base.name,
            "difference": None if base is None else difference(self, base),
        }


def difference(line: Line, base: Line) -> tuple[float, float]:
    """Mean over the problems of both, and half of its 95 % interval."""
    pairs = [line.shares[problem] - base.shares[problem] for problem in line.shares if problem in base.shares]
    mean = math.fsum(pairs) / len(pairs)
    spread = math.fsum((each - mean) ** 2 for each in pairs) / max(1, len(pairs) - 1)
    return mean, Z95 * math.sqrt(spread / len(pairs))


def lines_of(folder: Path, prefix: str = "") -> Iterator[Line]:
    """Searches as they ran, and votes taken again from independent samples."""
    found: dict[tuple[str, int | None], Line] = {}
    with Grader() as grade:
        for _, header, records in read_cells(folder):
            settings = header["settings"]
            independent = settings["strategy"] in SAMPLES
            rules = _rules(records) if independent else {}
            for record in _usable(records):
                if not independent:
                    key = (f"{prefix}{header['label']}", settings["options"].get("n"))
                    line = found.setdefault(key, Line(*key))
                    line.add(record["id"], bool(record["correct"]), record["candidates"])
                for n in _sizes(settings["options"]["n"]) if independent else ():
                    kept = first(record["candidates"], n)
                    for name, (vote, measure) in rules.items():
                        if n == 1 and name != "majority":
                            continue
                        key = (f"{prefix}{name}" if n > 1 else f"{prefix}one sample", n)
                        line = found.setdefault(key, Line(*key))
                        answer = _answer(kept, vote, measure)
                        line.add(record["id"], grade(answer, record["gold"]), kept)
    yield from found.values()


def _usable(records: Records) -> Iterator[dict[str, Any]]:
    return (each for each in records.values() if each["error"] is None and each["gold"] is not None)


def _rules(records: Records) -> dict[str, tuple[Vote, Measure | None]]:
    """Those that these results have the numbers for."""
    some = [each for record in _usable(records) for each in record["candidates"]]
    told, scored = (any(each[name] is not None for each in some) for name in ("confidence", "score"))
    known = {"majority": True, "best score": scored, "weighted by scores": scored}
    return {name: rule for name, rule in RULES.items() if known.get(name, told)}


def _sizes(n: int) -> list[int]:
    return [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= n]


def _answer(kept: Sequence[Kept], vote: Vote, measure: Measure | None) -> str | None:
    among = candidates(kept)
    chosen = choose([by_measure(each, measure) for each in among] if measure else among, vote).chosen
    return chosen.answer if chosen else None


def judged(folder: Path) -> dict[str, Any]:
    """How well scores tell right solutions from wrong ones, and whether `confidence` is as often right as it says."""
    scores, right, problems, said, true = [], [], [], [], []
    with Grader() as grade:
        for _, header, records in read_cells(folder):
            for record in _usable(records):
                if record["calibrated"]:
                    said.append(record["confidence"])
                    true.append(bool(record["correct"]))
                if header["settings"]["strategy"] not in SAMPLES:
                    continue
                for each in record["candidates"]:
                    if each["score"] is not None:
                        scores.append(each["score"])
                        right.append(grade(each["answer"], record["gold"]))
                        problems.append(record["id"])
    found = {"solutions": len(scores), "right": sum(right) / len(right) if right else None}
    if scores:
        numbers, labels = np.array(scores, np.float64), np.array(right)
        found |= {"auc": auc(numbers, labels), "auc_within": auc_within(numbers, labels, problems)}
    return found | ({"confidence_ece": expected_error(said, true)} if said else {})


def markdown(records: Sequence[dict[str, Any]]) -> str:
    """The table, cheapest first."""
    rows = ["| | N | accuracy | 95 % interval | tokens | GFLOP | beyond |", "|---|---|---|---|---|---|---|"]
    for each in sorted(records, key=lambda each: each["flops"]):
        low, high = each["interval95"]
        beyond = ""
        if each["difference"] is not None:
            mean, half = each["difference"]
            beyond = f"{each['beyond']}: {100 * mean:+.1f} ± {100 * half:.1f}"
        n = "" if each["n"] is None else str(each["n"])
        rows.append(
            f"| {each['name']} | {n} | {100 * each['accuracy']:.1f} % | {100 * low:.1f} to {100 * high:.1f} |"
            f" {each['tokens']:,.0f} | {each['flops'] / 1e9:,.0f} | {beyond} |"
        )
    return "\n".join(rows)


def plot(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Accuracy by FLOPs: a curve for every way that has several N, a point for the others."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name in dict.fromkeys(each["name"] for each in records):
        points = sorted((each["flops"] / 1e9, 100 * each["accuracy"]) for each in records if each["name"] == name)
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    axes.set(xscale="log", xlabel="GFLOP a problem", ylabel="right, %")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, print, draw and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--larger", type=Path, help="results of a larger policy on the same problems")
    parser.add_argument("--plot", type=Path, help="an SVG")
    parser.add_argument("--save", help="append to results/NAME.jsonl")
    args = parser.parse_args(arguments)
    lines = list(lines_of(args.folder))
    majority = {line.n: line for line in lines if line.name == "majority"}
    greedy = next((line for line in lines if line.name == "greedy"), None)
    bases = [greedy if line.name == "majority" else majority.get(line.n) for line in lines]
    records = [line.record(base) for line, base in zip(lines, bases, strict=True)]
    if args.larger:
        best = max(lines, key=lambda line: line.accuracy)
        records += [line.record(best) for line in lines_of(args.larger, "larger: ")]
    print(markdown(records))
    about = judged(args.folder)
    print(", ".join(f"{name} {value:.4g}" for name, value in about.items() if value is not None))
    if args.plot:
        plot(args.plot, records)
    if args.save:
        from benchmarks import common

        common.append(args.save, [*records, {"name": "judge", **about}])


if __name__ == "__main__":
    main()
