"""`branchwise eval`: a file of problems, resumable, with a table at the end."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from branchwise import __version__
from branchwise.cli import models
from branchwise.cli.options import STRATEGY_OPTIONS, Json, SearchOptions, with_search_options
from branchwise.cli.output import make_console, print_json
from branchwise.cli.problems import read_problems
from branchwise.errors import BranchwiseError, ResultsError
from branchwise.types import Cost, Problem, Result

if TYPE_CHECKING:
    from branchwise.report.results_file import Record, ResultsFile
    from branchwise.report.tally import Tally
    from branchwise.strategies.protocol import Strategy

_RESULT = "id, question, answer, correct, cost, wall_seconds"


@with_search_options
def evaluate(
    file: Annotated[Path, typer.Argument(help="JSON lines with id, problem and answer.", show_default=False)],
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first LIMIT problems. Default: all.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Results, JSON lines. Default: FILE-STRATEGY.results.jsonl, in this folder.")
    ] = None,
    in_flight: Annotated[
        int | None,
        typer.Option(min=1, help="Problems searched side by side: more is faster, until rows or memory are used up."),
    ] = None,
    json: Json = False,
    *,
    options: SearchOptions,
) -> None:
    """Search every problem of a file and grade the answers. Run it again to go on where it was interrupted."""
    from branchwise.report.results_file import ResultsFile

    problems = read_problems(file)[:limit]
    strategy = options.make_strategy()
    options.engine_config()  # refuse before anything is created
    path = out or Path(f"{file.stem}-{strategy.name}.results.jsonl")
    with ResultsFile(path, settings_of(options, strategy)) as results:
        tally, left = _resumed(results, problems)
        notes = make_console(stderr=True)
        for note in results.notes:
            notes.print(f"note: {note}", soft_wrap=True)
        if tally.problems:
            rest = "going on with the rest" if left else "nothing is left to do"
            notes.print(f"{path} holds {tally.problems} of {len(problems)} results: {rest}", soft_wrap=True)
        failed = _run(results, tally, left, options, in_flight) if left else {}
    if json:
        facts = {"results": str(path), "settings": settings_of(options, strategy), "failed": failed}
        print_json({**facts, **tally.as_dict()})
    else:
        _print_summary(tally, path, strategy.name, len(problems))
    if failed:
        first, why = next(iter(failed.items()))
        raise BranchwiseError(
            f"{len(failed)} of {len(problems)} problems failed and are not in {path}: run again to try them again."
            f" The first was {first!r}: {why}"
        )


def settings_of(options: SearchOptions, strategy: Strategy) -> dict[str, Any]:
    """All that a result depends on: what may not change between the runs that share a results file."""
    made = options.as_dict()
    for name in ("kv_memory", "weight_cache"):  # change no result
        del made[name]
    made["policy"] = _identity(options.policy) if options.policy is not None else "bundled policy-small"
    made["prm"] = _identity(options.prm) if options.prm is not None else None if options.policy else "bundled prm"
    made["strategy"] = strategy.name
    for name in STRATEGY_OPTIONS:
        made[name] = getattr(strategy, name, None)
    return {**made, "version": __version__}


def _run(
    results: ResultsFile, tally: Tally, problems: list[Problem], options: SearchOptions, in_flight: int | None
) -> dict[str, str]:
    """Search what is left, and write each result as it comes; the errors of those that failed, by id."""
    from branchwise.cli.eval_progress import EvalProgress

    failed: dict[str, str] = {}
    try:
        with models.open_engine(options) as engine, EvalProgress(tally, tally.problems + len(problems)) as progress:
            last = time.monotonic()
            found = engine.solve_many(
                problems, options.make_strategy(), max_in_flight=in_flight, on_event=progress.event
            )
            for result in found:
                if result.error is not None:
                    failed[result.problem.id] = str(result.error)
                    continue
                now = time.monotonic()
                results.append(_record(result, now - last))
                tally.wall_seconds += now - last
                tally.add(result.correct, result.cost)
                last = now
                progress.update()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted: {len(results.done)} results are safe in {results.path}; run the same command again to go on"
        ) from None
    return failed


def _record(result: Result, wall_seconds: float) -> Record:
    return {
        "id": result.problem.id,
        "question": _digest(result.problem),
        "answer": result.answer,
        "gold": result.problem.answer,
        "correct": result.correct,
        "text": result.text,
        "score": result.score,
        "votes": result.votes,
        "cost": asdict(result.cost),
        "wall_seconds": wall_seconds,  # since the result before it; the sum is the time that the run took
    }


def _resumed(results: ResultsFile, problems: list[Problem]) -> tuple[Tally, list[Problem]]:
    """The tally of the problems that are done, and those that are not."""
    from branchwise.report.tally import Tally

    tally, left = Tally(), []
    for problem in problems:
        record = results.done.get(problem.id)
        if record is None:
            left.append(problem)
            continue
        try:
            question, correct, cost = record["question"], record["correct"], Cost(**record["cost"])
            tally.wall_seconds += record["wall_seconds"]
        except (KeyError, TypeError) as error:
            raise ResultsError(
                f"{results.path}: the result of {problem.id!r} lacks what this version writes ({_RESULT});"
                " remove its line or choose another --out"
            ) from error
        if question != _digest(problem):
            raise ResultsError(
                f"{results.path} holds a result of {problem.id!r} for another question or gold answer:"
                " choose another --out for this file of problems"
            )
        tally.add(correct, cost)
    return tally, left


def _print_summary(tally: Tally, path: Path, strategy: str, total: int) -> None:
    from branchwise.report.table import table
    from branchwise.report.tally import TALLY_COLUMNS

    console = make_console()
    cells = [strategy, f"{tally.right} of {tally.graded}", *tally.cells(), f"{tally.problems_per_hour:,.1f}"]
    console.print(table(["strategy", "right", *TALLY_COLUMNS, "problems/h"], [cells]))
    if tally.graded < tally.problems:
        console.print(f"{tally.problems - tally.graded} problems have no gold answer and are not graded")
    console.print(f"results: {path}", soft_wrap=True)


def _digest(problem: Problem) -> str:
    """Tells questions apart that share an id."""
    return hashlib.blake2b(f"{problem.text}\0{problem.answer}".encode(), digest_size=6).hexdigest()


def _identity(source: str) -> str:
    """A model by name and size, so that results can move to another folder but not to another model."""
    path = Path(source)
    if not path.exists():
        return source
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    return f"{path.resolve().name} ({sum(file.stat().st_size for file in files)} bytes)"
