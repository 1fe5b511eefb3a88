"""`branchwise calibrate`: what results with known answers say of a policy and its judge, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from branchwise.cli.options import Json
from branchwise.cli.output import make_console, print_json, print_table, say
from branchwise.errors import ConfigError

if TYPE_CHECKING:
    from branchwise.control.calibration import Calibration

_QUALITY = {
    "accuracy": "votes that are right",
    "ece": "expected calibration error",
    "brier": "Brier score",
    "auc": "AUC over all",
    "auc_within": "AUC within a problem",
}


def calibrate(
    folder: Annotated[Path, typer.Argument(help="A folder that branchwise eval has written.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File of the calibration.")] = Path("calibration.json"),
    wave: Annotated[int, typer.Option(min=1, help="Solutions of a wave, as in -O wave=4 of the strategy auto.")] = 4,
    json: Json = False,
) -> None:
    """Measure how right answers are, and what more solutions gain, from an evaluation with known answers.

    The strategy auto decides by it, and every result has a measured confidence: --calibration FILE. The folder needs
    solutions that can be cut into waves: with a judge those of dvts (one subtree a wave) or best_of_n, without one
    those of majority, each with N of several waves; large waves are learned from beam or particles with N of three.
    Take other problems than those that will count.
    """
    from branchwise.answers.grade import Grader
    from branchwise.control.fit import fit_calibration
    from branchwise.report.folder import read_cells
    from branchwise.report.votes import Grades

    if out.exists() and out.is_dir():
        raise ConfigError(f"--out {out} is a folder: name a file, as in {out / 'calibration.json'}")
    with make_console(stderr=True).status("reading and fitting"), Grader() as grader:
        cells = list(read_cells(folder))
        grades = Grades(grader)
        for _, _, records in cells:
            for record in records.values():
                if record["error"] is None:
                    grades.learn(record)
        made = fit_calibration(cells, grades, wave)
    made.save(out)
    if json:
        print_json({"file": str(out), "quality": made.quality, "first": made.first, "tokens": made.tokens})
    else:
        _print(made, out)


def _print(made: Calibration, out: Path) -> None:
    from rich.table import Table

    from branchwise.report.numbers import measure

    table = Table("of votes left out while fitting", "", box=None)
    for name, words in _QUALITY.items():
        table.add_row(words, measure(made.quality[name]))
    for kind, share in made.first.items():
        table.add_row(f"right after the first wave, {kind}", measure(share))
    console = make_console()
    print_table(console, table)
    say(console, f"fitted to {made.trained['votes']} votes on {made.trained['problems']} problems: {out}")
