"""`branchwise eval`: a file of problems, resumable, with a table at the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from branchwise import __version__
from branchwise.chat_options import parse_variables
from branchwise.cli import models
from branchwise.cli.options import Json, SearchOptions, with_search_options
from branchwise.cli.output import make_console, print_json, say
from branchwise.cli.problems import BadRow, read_rows
from branchwise.cli.records import Row, bad_record, count, result_record, resumed, settings_digest, to_retry
from branchwise.types import Problem

if TYPE_CHECKING:
    from branchwise.report.results_file import Record, ResultsFile
    from branchwise.report.tally import Tally
    from branchwise.strategies.protocol import Strategy

FAILED = 1  # exit code when all rows failed, or one did with --strict


@with_search_options
def evaluate(
    file: Annotated[
        Path, typer.Argument(help="JSON lines with id, problem, and maybe answer and seed.", show_default=False)
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first LIMIT problems. Default: all.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Results, JSON lines. Default: FILE-STRATEGY.results.jsonl, in this folder.")
    ] = None,
    in_flight: Annotated[
        int | None,
        typer.Option(min=1, help="Problems searched side by side: more is faster, until rows or memory are used up."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 1 when a row failed.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try rows again that failed before.")] = False,
    json: Json = False,
    *,
    options: SearchOptions,
) -> None:
    """Search every problem of a file and grade the answers. Run it again to go on where it was interrupted.

    A row that is no problem, or whose search fails, has a result with an "error"; the others go on.
    """
    from branchwise.report.results_file import ResultsFile

    rows = read_rows(file, limit)
    strategy = options.make_strategy()
    options.engine_config()  # refuse before anything is created
    path = out or Path(f"{file.stem}-{strategy.name}.results.jsonl")
    settings, places = settings_of(options, strategy)
    with ResultsFile(path, settings, {"models": places}) as results:
        results.drop(to_retry(results, rows, retry_failed))
        tally, left = resumed(results, rows)
        _say_what_is_there(results, rows, left)
        if left:
            _say_what_is_equal(options, strategy)
            _run(results, tally, left, options, in_flight)
        results.check()
        errors = {row.id: results.done[row.id]["error"] for row in rows if results.done[row.id]["error"] is not None}
        header = results.header
    if json:
        facts = {name: header[name] for name in ("settings", "resolved", "models")}
        print_json({"results": str(path), **facts, "errors": errors, **tally.as_dict()})
    else:
        _print_summary(tally, path, strategy.name, errors)
    if errors and (strict or len(errors) == len(rows)):
        raise typer.Exit(FAILED)


def settings_of(options: SearchOptions, strategy: Strategy) -> tuple[dict[str, Any], dict[str, Any]]:
    """All that a result depends on, and may not change between the runs that share a file; and where the models lie."""
    from branchwise.cli.strategies import options_of

    made = options.as_dict()
    for name in ("kv_memory", "weight_cache", "prefix_cache", "threads"):  # change no result
        del made[name]
    made["template_var"] = parse_variables(options.template_var or [])
    places: dict[str, Any] = {"policy": options.policy, "prm": options.prm}
    for name, place in places.items():
        if place is not None:
            made[name], places[name] = models.identity(place)
    if options.policy is None:
        made["policy"], made["prm"] = "bundled policy-small", made["prm"] or "bundled prm"
    made["strategy"] = strategy.name
    made.update(options_of(strategy))
    return {**made, "version": __version__}, places


def _run(results: ResultsFile, tally: Tally, rows: list[Row], options: SearchOptions, in_flight: int | None) -> None:
    """Search what is left, and write each result as it comes."""
    from branchwise.cli.eval_progress import EvalProgress

    try:
        with models.open_engine(options) as engine, EvalProgress(tally, tally.problems + len(rows)) as progress:
            results.begin(models.resolved(engine))
            for row in rows:
                if isinstance(row, BadRow):
                    _take(results, tally, bad_record(row))
            last = time.monotonic()
            problems = [row for row in rows if isinstance(row, Problem)]
            found = engine.solve_many(
                problems, options.make_strategy(), max_in_flight=in_flight, on_event=progress.event
            )
            for result in found:
                now = time.monotonic()
                _take(results, tally, result_record(result, now - last))
                last = now
                progress.update()
    except KeyboardInterrupt as interrupt:
        results.check()  # else they are not safe there
        interrupt.args = (
            f"interrupted: {len(results.done)} results are safe in {results.path}; run the same command again to go on",
        )
        raise


def _take(results: ResultsFile, tally: Tally, record: Record) -> None:
    results.append({**record, "settings": settings_digest(results.header)})
    count(tally, record)


def _say_what_is_there(results: ResultsFile, rows: list[Row], left: list[Row]) -> None:
    notes = make_console(stderr=True)
    for note in results.notes:
        say(notes, f"note: {note}")
    bad = [row for row in left if isinstance(row, BadRow)]
    if bad:
        say(notes, f"note: {len(bad)} of {len(rows)} rows are no problems. The first: {bad[0].error}")
    done = len(rows) - len(left)
    if done:
        rest = "going on with the rest" if left else "nothing is left to do"
        failed = sum(results.done[row.id]["error"] is not None for row in rows if row.id in results.done)
        again = f" ({failed} failed: --retry-failed tries them again)" if failed else ""
        say(notes, f"{results.path} holds {done} of {len(rows)} results{again}: {rest}")


def _say_what_is_equal(options: SearchOptions, strategy: Strategy) -> None:
    n = getattr(strategy, "n", 1)
    if options.is_greedy and n > 1:
        words = f"at temperature 0 all {n} branches are equal: one is drawn for each problem, and counts as {n}"
        say(make_console(stderr=True), words)


def _print_summary(tally: Tally, path: Path, strategy: str, errors: dict[str, str]) -> None:
    from branchwise.report.cuts import cut_lines
    from branchwise.report.table import table
    from branchwise.report.tally import TALLY_COLUMNS

    console = make_console()
    rows = [
        ("right", f"{tally.right} of {tally.graded}"),
        ("failed", str(tally.failed)),
        ("cut by a limit", str(tally.cut)),
        *zip(TALLY_COLUMNS, tally.cells(), strict=True),
        ("problems/h", f"{tally.problems_per_hour:,.1f}"),
    ]
    console.print(table(["strategy", strategy], rows))
    if ungraded := tally.problems - tally.failed - tally.graded:
        say(console, f"{ungraded} problems have no gold answer and are not graded")
    for line in cut_lines(tally.cuts):
        say(console, line)
    if errors:
        first, why = next(iter(errors.items()))
        say(
            console,
            f"{len(errors)} rows failed and count as neither right nor wrong; --retry-failed tries them again."
            f" The first was {first!r}: {why}",
        )
    say(console, f"results: {path}")
