"""`branchwise votes`: the votes of an evaluation taken again, from its files and without any model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from branchwise.cli.options import Json
from branchwise.cli.output import make_console, print_json, print_table, say
from branchwise.errors import ConfigError

if TYPE_CHECKING:
    from branchwise.report.again import Rule
    from branchwise.report.comparison import Line
    from branchwise.report.votes import AtK, Run

_HEADERS = (
    "strategy",
    "vote",
    "by",
    "N",
    "accuracy",
    "95 % interval",
    "no answer",
    "tokens",
    "judge tokens",
    "FLOPs",
)


def votes(
    folder: Annotated[Path, typer.Argument(help="A folder that branchwise eval has written.", show_default=False)],
    strategy: Annotated[
        str | None, typer.Option("--strategy", "-s", help="Of these strategies only.", metavar="NAMES")
    ] = None,
    vote: Annotated[
        str | None, typer.Option(help="majority, max, weighted, borda, or several. Default: all.", metavar="NAMES")
    ] = None,
    aggregate: Annotated[
        str | None, typer.Option(help="last, min, prod, mean, or several. Default: as it was.", metavar="NAMES")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="How sure the policy was, in the place of scores: mean, tail, lowest, bottom, certainty, or several.",
            metavar="NAMES",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="Percent of the solutions with an answer that vote, the best: 10,90.", metavar="NUMBERS"),
    ] = None,
    power: Annotated[float | None, typer.Option(help="Of Borda votes. Default: as it was, or 0.5.")] = None,
    n: Annotated[
        str | None,
        typer.Option("--n", "-n", help="Of the first N solutions, one number or several.", metavar="NUMBERS"),
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="k of pass@k and maj@k. Default: powers of two.", metavar="NUMBERS")
    ] = None,
    json: Json = False,
) -> None:
    """Take the votes of an evaluation again, under other rules or with fewer solutions, and compute pass@k and maj@k.

    All of it is exactly what a fresh run would say; what would not be is refused.
    """
    from branchwise.answers.grade import Grader
    from branchwise.report.votes import Grades, read_runs

    with make_console(stderr=True).status("reading"), Grader() as grader:
        runs = _chosen(read_runs(folder), strategy, folder)
        grades, refused = Grades(grader), list[str]()
        lines = _vote(runs, Wishes.read(vote, aggregate, by, keep, power, n), grades, refused)
        estimates = _at(runs, at, grades, refused)
    if not lines and not estimates:
        raise ConfigError(refused[0])
    for reason in dict.fromkeys(refused):
        say(make_console(stderr=True), f"note: {reason}")
    if json:
        print_json({
            "results": str(folder),
            "votes": [{**line.as_dict(), **_named(rule), "answers": answers} for rule, line, answers in lines],
            "at": [{"strategy": run.label, "n": run.n, **_estimate(found)} for run, found in estimates],
            "refused": list(dict.fromkeys(refused)),
        })  # fmt: skip
    else:
        _print(lines, estimates)


Voted = tuple["Rule", "Line", list[dict[str, Any]]]


def _chosen(runs: Sequence[Run], strategies: str | None, folder: Path) -> list[Run]:
    """The runs that are asked for. ConfigError: there is none of a name."""
    from branchwise.strategies.options import nearest

    if strategies is None:
        return list(runs)
    known = {run.label: run.label.split()[0] for run in runs}
    chosen = _words(strategies)
    for name in chosen:
        if name not in (*known, *known.values()):
            raise ConfigError(f"{folder} has no results of {name!r} of its own: it has {', '.join(known)}"
                              f"{nearest(name, known)}")  # fmt: skip
    return [run for run in runs if run.label in chosen or known[run.label] in chosen]


@dataclass(frozen=True, slots=True)
class Wishes:
    """The votes that are asked for; None: all, or as it was."""

    votes: list[str] | None
    aggregates: list[str] | None
    measures: list[str] | None
    keeps: list[float] | None
    power: float | None
    numbers: list[int] | None

    @classmethod
    def read(
        cls, vote: str | None, aggregate: str | None, by: str | None, keep: str | None, power: float | None,
        n: str | None,
    ) -> Wishes:  # fmt: skip
        """From words of the command line. ConfigError: one of them cannot work."""
        from branchwise.answers.aggregate import AGGREGATES
        from branchwise.answers.vote import VOTES
        from branchwise.cli.cells import whole_numbers
        from branchwise.confidence import MEASURES
        from branchwise.strategies.options import check_choice, check_number

        names = [None if words is None else _words(words) for words in (vote, aggregate, by)]
        known = ("--vote", VOTES), ("--aggregate", AGGREGATES), ("--by", MEASURES)
        for words, (option, choices) in zip(names, known, strict=True):
            for word in words or []:
                check_choice("votes", option, word, choices)
        keeps = None if keep is None else [_number("--keep", word) for word in _words(keep)]
        for percent in keeps or []:
            check_number("votes", "--keep", percent, 0, 100, positive=True)
        if power is not None:
            check_number("votes", "--power", power, 0, 100)
        votes, aggregates, measures = names
        return cls(votes, aggregates, measures, keeps, power, None if n is None else whole_numbers("-n", n))

    @property
    def any(self) -> bool:
        """Whether something is asked for by name."""
        return any(each is not None for each in (self.votes, self.aggregates, self.measures, self.keeps, self.numbers))

    def of(self, have: Rule) -> Iterator[Rule]:
        """The rules that are asked for of a run."""
        from branchwise.answers.vote import VOTES

        measures = [have.measure] if self.measures is None else self.measures
        keeps = [have.keep_percent] if self.keeps is None else self.keeps
        by_judge = self.aggregates is not None and have.judged and self.measures is None
        power = have.power if self.power is None else self.power
        for size, kind, measure, keep, vote in product(
            self.numbers or [have.n], (by_judge and self.aggregates) or [have.aggregate], measures, keeps,
            self.votes or VOTES,
        ):  # fmt: skip
            yield replace(
                have, n=size, aggregate=kind, measure=measure, keep_percent=keep, vote=vote, power=power  # type: ignore[arg-type]  # checked
            )  # fmt: skip


def _vote(runs: Sequence[Run], wishes: Wishes, grades: Any, refused: list[str]) -> list[Voted]:
    """All votes that are asked for; why some are not possible goes to `refused`."""
    from branchwise.report.votes import vote_again

    made: list[Voted] = []
    for run in runs:
        if run.rule is None:
            refused.append(f"{run.name} has no other votes: its answer is more than a vote of its candidates")
            continue
        for want in wishes.of(run.rule):
            reason = run.why_not(want)
            if not reason:
                made.append((want, *vote_again(run, want, grades)))
            elif wishes.any:
                refused.append(f"{run.name} has no votes with {reason}")
    return made


def _at(runs: Sequence[Run], at: str | None, grades: Any, refused: list[str]) -> list[tuple[Run, AtK]]:
    from branchwise.cli.cells import whole_numbers
    from branchwise.report.votes import at_k

    made = []
    for run in runs:
        if at is None and (run.rule is None or not run.rule.independent):
            continue
        most = run.rule.n if run.rule is not None else 1
        powers = [1 << power for power in range(most.bit_length())]
        for k in whole_numbers("--at", at) if at is not None else dict.fromkeys([*powers, most]):
            try:
                made.append((run, at_k(run, k, grades)))
            except ConfigError as error:
                refused.append(str(error))
    return [(run, found) for run, found in made if found.problems]


def _print(lines: Sequence[Voted], estimates: Sequence[tuple[Run, AtK]]) -> None:
    from branchwise.report.table import table

    console = make_console()
    if lines:
        rows = []
        for rule, line, _ in lines:
            name, number, accuracy, interval, silent, _, *spent = line.cells(equal=False)
            rows.append([name, rule.vote, _basis(rule), number, accuracy, interval, silent, *spent[:3]])
        print_table(console, table(_HEADERS, rows, names=3))
    if estimates:
        headers = ["strategy", "N", "k", "pass@k", "95 % interval", "maj@k", "95 % interval", "problems"]
        print_table(console, table(headers, [_cells(run, found) for run, found in estimates]))


def _named(rule: Rule) -> dict[str, Any]:
    return {name: getattr(rule, name) for name in ("vote", "aggregate", "measure", "keep_percent")}


def _basis(rule: Rule) -> str:
    """What the votes go by."""
    named = rule.measure or (rule.aggregate if rule.judged else "-")
    return named if rule.keep_percent >= 100 else f"{named}, top {rule.keep_percent:g} %"


def _cells(run: Run, found: AtK) -> list[str]:
    shares = [(found.passes, found.pass_interval), (found.majority, found.majority_interval)]
    words = [
        word
        for share, (low, high) in shares
        for word in (f"{100 * share:.1f} %", f"{100 * low:.1f} to {100 * high:.1f}")
    ]
    return [run.label, "-" if run.n is None else str(run.n), str(found.k), *words, str(found.problems)]


def _estimate(found: AtK) -> dict[str, Any]:
    return {
        "k": found.k,
        "problems": found.problems,
        "pass": found.passes,
        "pass_interval95": list(found.pass_interval),
        "majority": found.majority,
        "majority_interval95": list(found.majority_interval),
    }


def _number(option: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ConfigError(f"{option} {word}: expected a number") from None


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
