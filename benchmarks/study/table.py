"""What folders of results say: every search and every vote by accuracy, tokens and FLOPs, and how good the judge was.

PYTHONPATH=. python benchmarks/study/table.py dev.results --larger larger.results --plot study.svg --save study

Votes are taken again from independent samples, for every N, so that all of them share their samples. Tokens are those
of solutions, FLOPs also those of the prompt, once, and of the judge where a rule asks it; both a problem. Differences
are problem by problem, with half of their 95 % intervals.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.paired import difference
from branchwise.answers.grade import Grader
from branchwise.answers.vote import Vote, choose
from branchwise.confidence import Measure
from branchwise.control.quality import auc, auc_within, expected_error
from branchwise.report.folder import read_cells
from branchwise.report.intervals import clustered
from branchwise.report.kept import candidates, first
from branchwise.report.record import Kept
from branchwise.strategies.candidates import by_measure

LARGER = "larger: "
SAMPLES = ("weighted_best_of_n", "best_of_n", "majority", "confidence")
Record = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """A vote, by scores or by how sure the policy was."""

    vote: Vote
    measure: Measure | None = None
    judged: bool = False

    def answer(self, kept: Sequence[Kept]) -> str | None:
        """What these solutions say by it."""
        among = candidates(kept, judged=self.judged)
        chosen = choose([by_measure(each, self.measure) for each in among] if self.measure else among, self.vote).chosen
        return chosen.answer if chosen else None

    def knows(self, kept: Sequence[Kept]) -> bool:
        """Whether solutions have the numbers for it."""
        return not (self.judged or self.measure) or any(
            each["score" if self.judged else "confidence"] is not None for each in kept
        )


RULES = {
    "majority": Rule("majority"),
    "confidence, weighted": Rule("weighted", "tail"),
    "certainty, borda": Rule("borda", "certainty"),
    "best score": Rule("max", judged=True),
    "weighted by scores": Rule("weighted", judged=True),
}


@dataclass
class Line:
    """One way to answer. right: of each problem and seed    tokens, flops: one number each"""

    name: str
    n: int | None
    right: dict[tuple[str, int], bool] = field(default_factory=dict)
    tokens: list[float] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)

    def add(self, key: tuple[str, int], right: bool, tokens: float, flops: float) -> None:
        """Another answer, unless it is known: cells may share their samples."""
        if key not in self.right:
            self.right[key] = right
            self.tokens.append(tokens)
            self.flops.append(flops)

    @property
    def shares(self) -> dict[str, float]:
        """How often each problem was right."""
        found: dict[str, list[bool]] = {}
        for (problem, _), right in self.right.items():
            found.setdefault(problem, []).append(right)
        return {problem: sum(right) / len(right) for problem, right in found.items()}

    @property
    def accuracy(self) -> float:
        """Mean over problems."""
        return math.fsum(self.shares.values()) / len(self.shares)

    def record(self, base: Line | None) -> Record:
        """As a line of a results file. base: what the difference is to"""
        seeds = len({seed for _, seed in self.right})
        return {
            "name": self.name,
            "n": self.n,
            "problems": len(self.shares),
            "seeds": seeds,
            "accuracy": self.accuracy,
            "interval95": clustered(list(self.shares.values()), seeds),
            "tokens": math.fsum(self.tokens) / len(self.tokens),
            "flops": math.fsum(self.flops) / len(self.flops),
            "beyond": None if base is None else base.name,
            "difference": None if base is None else difference(self.shares, base.shares),
        }


def lines_of(folders: Sequence[Path], prefix: str = "") -> Iterator[Line]:
    """Searches as they ran, and votes taken again from independent samples."""
    found: dict[tuple[str, int | None], Line] = {}

    def line(name: str, n: int | None) -> Line:
        return found.setdefault((prefix + name, n), Line(prefix + name, n))

    with Grader() as grade:
        for header, record in _usable(folders):
            settings, cost = header["settings"], record["cost"]
            key = record["id"], settings["seed"]
            if settings["strategy"] not in SAMPLES:
                n = settings["options"].get("n")
                line(header["label"], n).add(key, bool(record["correct"]), cost["generated_tokens"], cost["flops"])
                continue
            every = record.get("candidates", [])  # none where another cell holds them
            for n in _sizes(settings["options"]["n"]):
                kept = first(every, n)
                for name, rule in RULES.items():
                    if every and rule.knows(every) and (n > 1 or name == "majority"):
                        right = grade(rule.answer(kept), record["gold"])
                        tokens, flops = sum(each["tokens"] for each in kept), _flops(kept, record, judged=rule.judged)
                        line(name if n > 1 else "one sample", n).add(key, right, tokens, flops)
    yield from found.values()


def _usable(folders: Sequence[Path]) -> Iterator[tuple[Record, Record]]:
    """Header and record of everything that was graded."""
    for _, header, records in itertools.chain.from_iterable(map(read_cells, folders)):
        for each in records.values():
            if each["error"] is None and each["gold"] is not None:
                yield header, each


def _sizes(n: int) -> list[int]:
    return [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= n]


def _flops(kept: Sequence[Kept], record: Record, *, judged: bool) -> float:
    """Of these solutions, and of the prompt, which all solutions share: what is left of the whole without them."""

    def own(cost: Mapping[str, float]) -> float:
        return cost["flops"] - (0.0 if judged else cost["prm_flops"])

    prompt = own(record["cost"]) - math.fsum(map(own, record["candidates"]))
    return math.fsum(map(own, kept)) + max(0.0, prompt)


def judged(folders: Sequence[Path]) -> Record:
    """How well scores tell right solutions from wrong ones, and whether `confidence` is as often right as it says."""
    scores, right, problems, said, true = [], [], [], [], []
    with Grader() as grade:
        for header, record in _usable(folders):
            if record["calibrated"]:
                said.append(record["confidence"])
                true.append(bool(record["correct"]))
            if header["settings"]["strategy"] not in SAMPLES:
                continue
            for each in record.get("candidates", []):
                if each["score"] is not None:
                    scores.append(each["score"])
                    right.append(grade(each["answer"], record["gold"]))
                    problems.append(record["id"])
    found = {"solutions": len(scores), "right": sum(right) / len(right) if right else None}
    if scores:
        found |= {"auc": auc(scores, right), "auc_within": auc_within(scores, right, problems)}
    return found | ({"confidence_ece": expected_error(said, true)} if said else {})


def markdown(records: Sequence[Record]) -> str:
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
            f" {each['tokens']:,.0f} | {_giga(each['flops'])} | {beyond} |"
        )
    return "\n".join(rows)


def _giga(flops: float) -> str:
    """In billions, with three digits that count."""
    number = float(f"{flops / 1e9:.3g}")
    return f"{number:,.0f}" if number >= 100 else f"{number:g}"


def plot(path: Path, records: Sequence[Record]) -> None:
    """Accuracy by FLOPs: a curve for every way that has several N, a point for the others."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    names = list(dict.fromkeys(each["name"] for each in records))
    colours = matplotlib.colormaps["tab20"].resampled(len(names))
    for place, name in enumerate(names):
        points = sorted((each["flops"] / 1e9, 100 * each["accuracy"]) for each in records if each["name"] == name)
        style = {"marker": "s", "linestyle": "--"} if name.startswith(LARGER) else {"marker": "o"}
        axes.plot([x for x, _ in points], [y for _, y in points], color=colours(place), label=name, **style)
    axes.set(xscale="log", xlabel="GFLOP a problem", ylabel="right, %")
    axes.legend(fontsize="small", ncols=2)
    axes.grid(alpha=0.3)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, print, draw and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="results, of all or of a part of the problems")
    parser.add_argument("--larger", type=Path, help="results of a larger policy on the same problems")
    parser.add_argument("--plot", type=Path, help="an SVG")
    parser.add_argument("--save", help="append to results/NAME.jsonl")
    args = parser.parse_args(arguments)
    lines = list(lines_of(args.folders))
    majority = {line.n: line for line in lines if line.name == "majority"}
    greedy = next((line for line in lines if line.name == "greedy"), None)
    bases = [greedy if line.name == "majority" else majority.get(line.n) for line in lines]
    records = [line.record(base) for line, base in zip(lines, bases, strict=True)]
    if args.larger:
        best = max(lines, key=lambda line: line.accuracy)
        records += [line.record(best) for line in lines_of([args.larger], LARGER)]
    print(markdown(records))
    about = judged(args.folders)
    print(", ".join(f"{name} {value:.4g}" for name, value in about.items() if value is not None))
    if args.plot:
        plot(args.plot, records)
    if args.save:
        from benchmarks import common

        common.append(args.save, [*records, {"name": "judge", **about}])


if __name__ == "__main__":
    main()
