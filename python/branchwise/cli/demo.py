"""`branchwise demo`: what search makes of a small model, measured on held-out problems in some minutes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from branchwise.assets import asset_path
from branchwise.cli import models
from branchwise.cli.options import Json, SearchOptions
from branchwise.cli.output import make_console, print_json
from branchwise.cli.problems import read_rows
from branchwise.errors import ConfigError
from branchwise.report.tally import TALLY_COLUMNS, Tally
from branchwise.types import Problem, Result

if TYPE_CHECKING:
    from rich.console import Console

_MAX_TOKENS = 256  # solutions take 40 to 150
_SEARCHES = ("greedy", "majority", "best_of_n", "beam", "dvts")
_ROWS = (*(("small", strategy) for strategy in _SEARCHES), ("large", "greedy"))


@dataclass(slots=True)
class Row:
    """One line of the table: a policy with a strategy on all problems."""

    policy: str  # "small" or "large"
    strategy: str
    tally: Tally = field(default_factory=Tally)
    results: dict[str, Result] = field(default_factory=dict)  # by problem id


def demo(
    problems: Annotated[int, typer.Option(min=1, help="How many of the bundled held-out problems.")] = 200,
    n: Annotated[int, typer.Option("--n", "-n", help="Branches of every search.")] = 16,
    seed: Annotated[int, typer.Option(help="The same seed gives the same table, times apart.")] = 0,
    json: Json = False,
) -> None:
    """Compare greedy decoding, voting and PRM-guided search of a small model with a model 8 times larger.

    The bundled models solve integer arithmetic step by step. Everything runs on this machine; nothing is downloaded.
    """
    held_out = [row for row in read_rows(asset_path("problems.jsonl")) if isinstance(row, Problem)]
    if problems > len(held_out):
        raise ConfigError(f"--problems {problems}: {len(held_out)} held-out problems are bundled")
    options = [_options(policy, strategy, n, seed) for policy, strategy in _ROWS]
    for each in options:
        each.make_strategy()  # refuses what cannot work before anything runs
    with _progress(len(options) * problems) as advance:
        rows = _run(options, held_out[:problems], advance)
    shown = _sentence(rows, n)
    example = _example(rows)
    if json:
        print_json(_document(rows, n, seed, example, shown))
    else:
        _print(make_console(), rows, n, example, shown)


def _options(policy: str, strategy: str, n: int, seed: int) -> SearchOptions:
    source = None if policy == "small" else str(asset_path("policy-large"))
    budget = None if strategy == "greedy" else n
    return SearchOptions(policy=source, instruction="", strategy=strategy, n=budget, seed=seed, max_tokens=_MAX_TOKENS)


def _run(options: list[SearchOptions], problems: list[Problem], advance: Callable[[str], None]) -> list[Row]:
    """All rows; engines stay open for the rows that share them."""
    rows = [Row(policy, strategy) for policy, strategy in _ROWS]
    for policy in ("small", "large"):
        mine = [(row, each) for row, each in zip(rows, options, strict=True) if row.policy == policy]
        with models.open_engine(mine[0][1]) as engine:
            for row, each in mine:
                begun = time.monotonic()
                for result in engine.solve_many(problems, each.make_strategy()):
                    row.tally.add(result.correct, result.cost, result.cuts, failed=result.error is not None)
                    row.results[result.problem.id] = result
                    advance(f"{row.policy} policy, {row.strategy}")
                row.tally.wall_seconds = time.monotonic() - begun
    return rows


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr; yields what counts one more result, whose row it names."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = make_console(stderr=True)
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("loading models", total=total)
        yield lambda name: bar.update(task, advance=1, description=name)


def _print(console: Console, rows: list[Row], n: int, example: Result | None, shown: str) -> None:
    from branchwise.cli.live import describe
    from branchwise.report.table import table

    total = rows[0].tally.problems
    cells = [[row.policy, row.strategy, *row.tally.cells()] for row in rows]
    console.print(f"{total} held-out problems, N = {n}; tokens, FLOPs and seconds are totals")
    console.print(table(["policy", "strategy", *TALLY_COLUMNS], cells, names=2))
    if example is not None:
        wrong = _row(rows, "small", "greedy").results[example.problem.id].answer
        console.print(
            f"A problem that the small policy fails by itself (it says {wrong}) and solves with beam search:\n"
        )
        console.print(describe(example, console, solution=False))
        console.print()
    console.print(shown, style="bold")


def _row(rows: list[Row], policy: str, strategy: str) -> Row:
    return next(row for row in rows if (row.policy, row.strategy) == (policy, strategy))


def _example(rows: list[Row]) -> Result | None:
    """Of the problems that greedy decoding fails and beam search solves, the one with the smallest tree."""
    alone, search = _row(rows, "small", "greedy").results, _row(rows, "small", "beam").results
    rescued = [result for id_, result in search.items() if result.correct and not alone[id_].correct]
    return min(rescued, key=lambda result: (result.cost.generated_tokens, result.problem.id), default=None)


def _sentence(rows: list[Row], n: int) -> str:
    """What the table shows, and whether the intervals bear it out."""
    alone, search, large = (
        _row(rows, *names).tally for names in (("small", "greedy"), ("small", "beam"), ("large", "greedy"))
    )
    rates = [100 * tally.right / tally.graded for tally in (alone, search, large)]
    apart = search.interval[0] > large.interval[1] or large.interval[0] > search.interval[1]
    relation = "above" if rates[1] > rates[2] else "below" if rates[1] < rates[2] else "equal to"
    sure = "beyond the 95 % intervals" if apart else "but the 95 % intervals overlap"
    small = parameters("policy-small")
    return (
        f"Beam search with a PRM (N = {n}) takes the small policy of {small / 1e6:.2f} M parameters"
        f" from {rates[0]:.1f} % to {rates[1]:.1f} %: {relation} the {rates[2]:.1f} % that a policy"
        f" {parameters('policy-large') / small:.1f} times its size reaches by greedy decoding,"
        f" {sure}. It spends {search.cost.flops / large.cost.flops:.1f} times the FLOPs of that policy."
    )


def parameters(asset: str) -> int:
    """How many parameters a bundled model has."""
    from math import prod

    from branchwise.weights import open_checkpoint

    checkpoint = open_checkpoint(asset_path(asset))
    return sum(prod(checkpoint.shape(name)) for name in checkpoint.names())


def _document(rows: list[Row], n: int, seed: int, example: Result | None, shown: str) -> dict[str, Any]:
    from branchwise.report.result_json import result_to_dict

    return {
        "n": n,
        "seed": seed,
        "parameters": {name: parameters(name) for name in ("policy-small", "policy-large", "prm")},
        "rows": [{"policy": row.policy, "strategy": row.strategy, **row.tally.as_dict()} for row in rows],
        "example": result_to_dict(example) if example is not None else None,
        "shown": shown,
    }
