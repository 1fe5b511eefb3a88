"""`branchwise train-head`: a value head for a policy, from a file of problems with answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from branchwise.cli import models
from branchwise.cli.evaluate import common_settings, fill
from branchwise.cli.options import Json, SearchOptions, option, with_search_options
from branchwise.cli.output import make_console, print_json, print_table, say
from branchwise.cli.problems import read_rows
from branchwise.errors import ConfigError

if TYPE_CHECKING:
    from branchwise.training.samples import Solved
    from branchwise.training.train import Trained
    from branchwise.types import Problem

Number = Annotated[int, option("Search", "Solutions drawn of each problem.", "--n", "-n", metavar="NUMBER")]


@with_search_options
def train_head(
    file: Annotated[
        Path, typer.Argument(help="JSON lines with id, problem and answer; some hundreds do well.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The value head, a file that ends in .safetensors.", show_default=False)],
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first LIMIT problems. Default: all.")] = None,
    samples: Annotated[
        Path | None,
        typer.Option(help="Learn from the solutions in this folder, which branchwise eval has written, and draw none."),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Layers whose states are tried, alone and together: 12,20,24. Default: the last, three before it.",
            metavar="NUMBERS",
        ),
    ] = None,
    in_flight: Annotated[int | None, typer.Option(min=1, help="Problems searched side by side.")] = None,
    plot: Annotated[bool, typer.Option(help="Draw the reliability of the scores, beside the head, as a PNG.")] = True,
    json: Json = False,
    n: Number = 8,
    *,
    options: SearchOptions,
) -> None:
    """Train a value head: scores for every step from the policy's own hidden states, without a second model.

    Solutions of the problems are drawn and labelled by their final answers. A logistic regression then learns which
    states lead to right answers; layers, pooling and the place at a step's end are chosen by cross-validation over
    problems. Run the same command again to go on where it was interrupted. Use the head in the place of a PRM:
    branchwise solve '...' --policy POLICY --judge head.safetensors -s weighted_best_of_n -n 16
    """
    from branchwise.cli.cells import whole_numbers
    from branchwise.training.plot import has_plots, reliability_plot
    from branchwise.training.samples import check_budget, labelled
    from branchwise.training.train import check_out

    if options.prm is not None or options.judge:
        raise ConfigError("train-head draws solutions without a judge: leave out --prm and --judge")
    options.engine_config()  # refuse before models load
    check_out(out)
    wanted = None if layers is None else whole_numbers("--layers", layers)
    problems = labelled(read_rows(file, limit))
    notes = make_console(stderr=True)
    if plot and not has_plots():
        say(notes, "note: no plot without matplotlib: pip install 'branchwise[plot]', or --no-plot")
        plot = False
    if samples is None:
        check_budget(len(problems), n)
        samples = out.with_suffix(".samples")
        _draw(problems, samples, n, options, in_flight)
    made = _fit(problems, samples, out, wanted, options)
    picture = out.with_suffix(".png") if plot else None
    if picture is not None:
        reliability_plot(picture, made.bins, f"{out.name}: AUC {made.report['auc']:.2f}")
    if json:
        print_json({"head": str(out), "samples": str(samples), "plot": picture and str(picture), **made.report,
                    "bins": made.bins})  # fmt: skip
    else:
        _print(made, samples, picture)


def _draw(problems: list[Problem], folder: Path, n: int, options: SearchOptions, in_flight: int | None) -> None:
    """The solutions, in a folder as `eval` writes it: what is there is not drawn again."""
    from branchwise.cli.cells import make_cells
    from branchwise.cli.work import make_works
    from branchwise.report.folder import ResultsFolder

    options = replace(options, prefix_cache=False)
    common, places = common_settings(options)
    with ResultsFolder(folder, common, {"models": places}) as results:
        cells = make_cells(options, "majority", str(n), 1)
        works = make_works(cells, results, problems, share=False, without_chance=options.is_greedy, budget={})
        for work in works:
            work.begin(failed=False, shared=False)
        if any(work.left for work in works):
            fill(works, options, in_flight)
        for work in works:
            work.results.check()


def _fit(
    problems: list[Problem], samples: Path, out: Path, layers: list[int] | None, options: SearchOptions
) -> Trained:
    from branchwise.answers.grade import Grader
    from branchwise.cli.train_progress import TrainProgress
    from branchwise.training.samples import read_samples
    from branchwise.training.train import check_layers, fit_head
    from branchwise.weights import open_checkpoint
    from branchwise.weights.identity import identity

    with models.open_engine(options) as engine, Grader() as grader:
        check_layers(engine, layers)
        policy = identity(open_checkpoint(engine.policy.source))
        solved: list[Solved] = read_samples(engine, samples, problems, policy, grader)
        with TrainProgress() as progress:
            return fit_head(
                engine, solved, out, layers=layers, states=out.with_suffix(".states"), listener=progress
            )  # fmt: skip


def _print(made: Trained, samples: Path, picture: Path | None) -> None:
    from branchwise.report.numbers import measure
    from branchwise.report.table import table

    found = made.report
    drawn = f"{found['solutions']:,} solutions of {found['problems']:,} problems, {100 * found['right']:.0f} % right"
    rows = [
        ["reads", f"{found['choice']}: {made.head.parameters:,} numbers"],
        ["trained on", drawn],
        ["AUC of solutions", f"{measure(found['auc'])} over all, {measure(found['auc_within'])} within a problem"],
        ["Brier score", f"{found['brier']:.3f}"],
        ["calibration error", f"{found['ece']:.3f} of solutions, {found['ece_steps']:.3f} of all steps"],
        ["solutions", str(samples)],
        *([["reliability", str(picture)]] if picture is not None else []),
        ["use it", f"--judge {made.path}"],
    ]
    console = make_console()
    print_table(console, table(["value head", str(made.path)], rows, names=2))
    say(console, f"All of it on problems that were held out, a fifth at a time ({found['folds']} folds).", "dim")
