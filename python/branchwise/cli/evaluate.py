"""`branchwise eval`: strategies on a file of problems, side by side, resumable, with a table at the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from branchwise import __version__
from branchwise.chat_options import parse_variables
from branchwise.cli import models
from branchwise.cli.options import Json, SearchOptions, option, with_search_options
from branchwise.cli.output import make_console, say
from branchwise.cli.problems import BadRow, read_rows
from branchwise.errors import ConfigError

if TYPE_CHECKING:
    from branchwise.cli.cells import Cell
    from branchwise.cli.records import Row
    from branchwise.cli.work import Work

FAILED = 1  # exit code when all rows of a strategy failed, or one did with --strict
_NO_RESULT = ("kv_memory", "weight_cache", "prefix_cache", "threads")  # options that change no result

Strategies = Annotated[
    str,
    option(
        "Search", "One or several of those below, or of your own: greedy,majority,my.py:MyStrategy.", "--strategy",
        "-s", metavar="NAMES",
    ),
]  # fmt: skip
Numbers = Annotated[
    str | None,
    option(
        "Search", "How many solutions are grown, one number or several: 4,16. Default: that of the strategy.", "--n",
        "-n", metavar="NUMBERS",
    ),
]  # fmt: skip
Seeds = Annotated[
    int, typer.Option(min=1, help="Seeds from --seed on, each a run of its own.", rich_help_panel="Search")
]

BudgetTokens = Annotated[
    float | None,
    option(
        "Search", "Of all problems together, written and judged: the strategy auto spends them where they gain most.",
        metavar="NUMBER",
    ),
]  # fmt: skip
BudgetFlops = Annotated[float | None, option("Search", "The same as FLOPs of all models: 1e15.", metavar="NUMBER")]

PrefixCache = Annotated[
    bool,
    option("Models", "Keep the KV of prompts and judged steps for later ones: then costs depend on what ran before."),
]


@with_search_options
def evaluate(
    file: Annotated[
        Path, typer.Argument(help="JSON lines with id, problem, and maybe answer and seed.", show_default=False)
    ],
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first LIMIT problems. Default: all.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results, a file for each. Default: FILE.results, in this folder.")
    ] = None,
    in_flight: Annotated[
        int | None,
        typer.Option(min=1, help="Problems searched side by side: more is faster, until rows or memory are used up."),
    ] = None,
    share: Annotated[
        bool,
        typer.Option(
            help="Samples that strategies have in common are drawn once, where that is exact; else every strategy is"
            " run and timed by itself."
        ),
    ] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 1 when a row failed.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try rows again that failed before.")] = False,
    json: Json = False,
    strategy: Strategies = "beam",
    n: Numbers = None,
    seeds: Seeds = 1,
    budget_tokens: BudgetTokens = None,
    budget_flops: BudgetFlops = None,
    prefix_cache: PrefixCache = False,
    *,
    options: SearchOptions,
) -> None:
    """Compare strategies on a file of problems; run the same command again to go on where it was interrupted.

    Every strategy with every N and every seed has its own file in the folder. `branchwise votes` takes votes again.
    """
    from branchwise.cli.cells import make_cells
    from branchwise.cli.eval_report import report
    from branchwise.cli.work import make_works
    from branchwise.report.folder import ResultsFolder

    options = replace(options, prefix_cache=prefix_cache)
    cells = make_cells(options, strategy, n, seeds)
    options.engine_config()  # refuse before models load
    budget = _budget(budget_tokens, budget_flops, cells)
    rows = read_rows(file, limit)
    common, places = common_settings(options)
    path = out if out is not None else Path(f"{file.stem}.results")
    with ResultsFolder(path, {**common, **budget}, {"models": places}) as folder:
        works = make_works(cells, folder, rows, share=share, without_chance=options.is_greedy, budget=budget)
        for work in works:
            work.begin(failed=retry_failed, shared=not share)
        if _say_what_is_there(works, rows):
            _say_what_is_equal(options, cells)
            fill(works, options, in_flight)
        for work in works:
            work.results.check()
        failed = report(works, path, json=json)
    if (strict and any(failed)) or len(rows) in failed:
        raise typer.Exit(FAILED)


def _digest(path: Path) -> str:
    """Of what a calibration says; it is read, and refused where that cannot be, when the engine is made."""
    from hashlib import blake2b

    return blake2b(path.read_bytes() if path.is_file() else b"", digest_size=6).hexdigest()


def _budget(tokens: float | None, flops: float | None, cells: list[Cell]) -> dict[str, float]:
    """As `Engine.solve_many` takes it. ConfigError: it cannot work, or not all strategies are `auto`."""
    from branchwise.control.budget import budget_of

    budget = budget_of(tokens, flops)
    if budget is None:
        return {}
    other = next((cell.label for cell in cells if cell.strategy.name != "auto"), None)
    if other is not None:
        raise ConfigError(f"--budget-{budget.unit} is spent by the strategy auto alone, not by {other}: leave it out")
    return {f"budget_{budget.unit}": budget.amount}


def common_settings(options: SearchOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """All that the results of a folder depend on beside strategy and seed; and where the models lie."""
    from branchwise.cli.strategies import FLAGS

    made = options.as_dict()
    for name in (*_NO_RESULT, "strategy", "strategy_option", "seed", *FLAGS):
        del made[name]
    made["template_var"] = parse_variables(options.template_var or [])
    if options.calibration is not None:
        made["calibration"] = _digest(Path(options.calibration))
    places: dict[str, Any] = {"policy": options.policy, "prm": options.prm}
    for name, place in places.items():
        if place is not None:
            made[name], places[name] = models.identity(place)
    made["judge"] = [each.identity for each in options.own_judges()]
    if options.policy is None:
        bundled = None if options.judge else "bundled prm"
        made["policy"], made["prm"] = "bundled policy-small", made["prm"] or bundled
    return {**made, "version": __version__}, places


def fill(works: list[Work], options: SearchOptions, in_flight: int | None) -> None:
    """Bring the results that are left: first what others know already, then by searching."""
    from branchwise.answers.grade import Grader
    from branchwise.cli.eval_progress import EvalProgress

    def done() -> int:
        return sum(work.done for work in works)

    total = sum(len(work.rows) for work in works)
    try:
        with Grader() as grader, EvalProgress(done(), total) as progress:
            for work in works:
                work.share(grader, progress.took)
            if done() == total:
                return
            with models.open_engine(options) as engine:
                for work in works:
                    progress.begin(work.cell.name)
                    work.results.begin(models.resolved(engine))
                    work.share(grader, progress.took)
                    work.run(engine, in_flight, progress)
    except KeyboardInterrupt as interrupt:
        for work in works:
            work.results.check()  # else they are not safe there
        interrupt.args = (
            f"interrupted: {done()} results are safe in {works[0].results.path.parent}; run the same command"
            " again to go on",
        )
        raise


def _say_what_is_there(works: list[Work], rows: list[Row]) -> int:
    """How many results are missing, after a word about those that are not."""
    left = {work.cell.name: work.left for work in works}
    notes = make_console(stderr=True)
    for note in (note for work in works for note in work.results.notes):
        say(notes, f"note: {note}")
    bad = [row for row in rows if isinstance(row, BadRow)]
    if bad and any(isinstance(row, BadRow) for each in left.values() for row in each):
        say(notes, f"note: {len(bad)} of {len(rows)} rows are no problems. The first: {bad[0].error}")
    total, missing = len(rows) * len(works), sum(map(len, left.values()))
    if total > missing:
        rest = "going on with the rest" if missing else "nothing is left to do"
        failed = sum(
            work.results.done[row.id]["error"] is not None
            for work in works for row in work.rows if row.id in work.results.done
        )  # fmt: skip
        again = f" ({failed} failed: --retry-failed tries them again)" if failed else ""
        folder = works[0].results.path.parent
        say(notes, f"{folder} holds {total - missing} of {total} results{again}: {rest}")
    return missing


def _say_what_is_equal(options: SearchOptions, cells: list[Cell]) -> None:
    several = sorted({cell.n for cell in cells if cell.n is not None and cell.n > 1})
    if options.is_greedy and several:
        n = " or ".join(map(str, several))
        words = f"at temperature 0 all {n} branches are equal: one is drawn for each problem, and counts as {n}"
        say(make_console(stderr=True), words)
