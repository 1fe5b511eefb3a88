"""What the candidates of a results folder say under other votes, fewer of them, or k of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from branchwise.answers.vote import choose
from branchwise.errors import ConfigError, ResultsError
from branchwise.report.again import Rule, retake, rule_of, why_not
from branchwise.report.comparison import Line
from branchwise.report.estimates import majority_at, pass_at
from branchwise.report.folder import read_cells
from branchwise.report.intervals import clustered
from branchwise.report.kept import candidates
from branchwise.report.lines import Lines
from branchwise.report.record import Record
from branchwise.types import Candidate

Grade = Callable[[str | None, str], bool]


@dataclass(slots=True)
class Run:
    """A strategy and an N that were searched, over seeds. rule: None where votes cannot be taken again"""

    label: str
    n: int | None
    rule: Rule | None
    cells: dict[int, Lines] = field(default_factory=dict)  # by seed

    @property
    def name(self) -> str:
        return self.label if self.n is None else f"{self.label} N={self.n}"

    def records(self) -> Iterator[tuple[int, Record]]:
        """All results, with their seeds."""
        for seed, records in self.cells.items():
            yield from ((seed, record) for record in records.values())

    def why_not(self, want: Rule) -> str:
        """What cannot be taken as if the search had been another, and why, or ""."""
        assert self.rule is not None
        reason = why_not(self.rule, want)
        if not reason and want.n != self.rule.n:
            cut = sum("prm_context" in record["cuts"] for _, record in self.records())
            reason = f"n={want.n}: the judge's context cut {cut} of its results, which may differ" if cut else ""
        return reason


def read_runs(folder: Path) -> list[Run]:
    """The runs of a folder; cells whose results were shared are left out, for they say nothing of their own."""
    runs: dict[tuple[str, int | None], Run] = {}
    for name, header, records in read_cells(folder):
        settings = header["settings"]
        if any(record["shared"] is not None for record in records.values()):
            continue
        key = header["label"], settings["options"].get("n")
        try:
            run = runs.setdefault(key, Run(*key, rule_of(settings)))
        except (TypeError, ConfigError) as error:
            raise ResultsError(f"{folder / name}.jsonl has options of another version ({error})") from error
        run.cells[settings["seed"]] = records
        if run.rule is not None and run.rule.independent:
            _check_numbers(folder / f"{name}.jsonl", run.rule.n, records)
    return sorted(runs.values(), key=lambda run: (run.label, run.n or 0))


def _check_numbers(path: Path, n: int, records: Lines) -> None:
    for record in records.values():
        drawn = sum(each["count"] for each in record["candidates"])
        if record["error"] is None and drawn != n:
            raise ResultsError(f"{path}: the result of {record['id']!r} has {drawn} solutions of {n}; remove that line")


class Grades:
    """Remembers what a grader said, and what records say already."""

    def __init__(self, grade: Grade) -> None:
        self._grade = grade
        self._known: dict[tuple[str | None, str], bool] = {}

    def __call__(self, answer: str | None, gold: str) -> bool:
        if (answer, gold) not in self._known:
            self._known[answer, gold] = self._grade(answer, gold)
        return self._known[answer, gold]

    def learn(self, record: Record) -> None:
        """Take over how the answer of a record was graded."""
        gold, correct = record["gold"], record["correct"]
        if gold is not None and correct is not None:
            self._known[record["answer"], gold] = correct


def vote_again(run: Run, want: Rule, grades: Grades) -> tuple[Line, list[dict[str, Any]]]:
    """The line of a table, and the answer to every problem. It must be possible: see `Run.why_not`."""
    assert run.rule is not None
    line, answers = Line(run.label, want.n if run.n is not None else None), []
    for seed, record in run.records():
        grades.learn(record)
        made = retake(record, run.rule, want, grades) or record
        line.add(made, seed)
        answers.append({"id": made["id"], "seed": seed, "answer": made["answer"], "correct": made["correct"]})
    return line, answers


@dataclass(frozen=True, slots=True)
class AtK:
    """pass@k and maj@k of a run, over its problems, each with its 95 % interval."""

    k: int
    problems: int
    passes: float
    pass_interval: tuple[float, float]
    majority: float
    majority_interval: tuple[float, float]


def at_k(run: Run, k: int, grades: Grades) -> AtK:
    """Both estimates. ConfigError: they cannot be taken from this run."""
    rule = run.rule
    if rule is None or not rule.independent:
        raise ConfigError(f"{run.name}: pass@k and maj@k take solutions that are independent of each other")
    if not 1 <= k <= rule.n:
        raise ConfigError(f"{run.name}: {k} solutions at a time are more than it drew")
    passes: dict[str, list[float]] = {}
    wins: dict[str, list[float]] = {}
    for _, record in run.records():
        gold = record["gold"]
        if record["correct"] is not None and gold is not None:
            grades.learn(record)
            passed, won = _estimates(candidates(record["candidates"], judged=False), gold, k, grades)
            passes.setdefault(record["id"], []).append(passed)
            wins.setdefault(record["id"], []).append(won)
    most = len(run.cells) * rule.n / k
    return AtK(k, len(passes), *_mean(passes, most), *_mean(wins, most))


def _estimates(drawn: Sequence[Candidate], gold: str, k: int, grades: Grades) -> tuple[float, float]:
    n = sum(each.count for each in drawn)
    right = sum(each.count for each in drawn if grades(each.answer, gold))
    votes = choose(drawn, "majority").votes
    return pass_at(n, right, k), majority_at(n, [(int(size), grades(answer, gold)) for answer, size in votes], k)


def _mean(shares: Mapping[str, Sequence[float]], most: float) -> tuple[float, tuple[float, float]]:
    means = [sum(each) / len(each) for each in shares.values()]
    return sum(means) / len(means) if means else 0.0, clustered(means, most)
