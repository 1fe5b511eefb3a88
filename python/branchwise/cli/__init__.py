"""The command line, a file for each command. Nothing heavy is imported before they run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from branchwise import signals
from branchwise.cli import calibrate, demo, doctor, evaluate, solve, train_head, votes
from branchwise.cli.output import LEAST_WIDTH, guarded_streams
from branchwise.cli.teaching import TeachingCommand
from branchwise.errors import BranchwiseError
from branchwise.report.plain import printable

INTERRUPTED = 130  # exit code of a program that Ctrl-C ended


class _Commands(TyperGroup):
    """Turns the errors that a user can meet into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with signals.Raise():
                return super().invoke(ctx)
        except BranchwiseError as error:
            raise SystemExit(_refused(error)) from None
        except KeyboardInterrupt as interrupt:
            typer.echo(str(interrupt) or "interrupted", err=True)
            raise SystemExit(getattr(interrupt, "code", INTERRUPTED)) from None


def _refused(error: BranchwiseError) -> int:
    typer.echo(f"error: {printable(' '.join(str(error).splitlines()))}", err=True)
    return 2


app = typer.Typer(
    cls=_Commands,
    name="branchwise",
    help="Search with small language models: a policy writes steps, a process reward model (PRM) judges them.",
    epilog="Start with: branchwise demo. Exit codes: 0 done; 1 all rows failed, or one did with --strict (eval), or"
    " something is missing (doctor); 2 an error that says what to change; 130 interrupted, 143 terminated, 129 the"
    " terminal is gone, 141 nobody reads the output.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo", epilog="Example: branchwise demo --problems 50")(demo.demo)
app.command(
    "solve",
    cls=TeachingCommand,
    epilog="Examples: branchwise solve '12+3*4-5+60=?' --strategy dvts -n 16"
    " | branchwise solve 'A train ...' --policy policy.gguf --prm prm.gguf --temperature 0.7"
    " | branchwise solve '12+3*4-5+60=?' --judge examples/my_judge.py:arithmetic",
)(solve.solve)
app.command(
    "eval",
    cls=TeachingCommand,
    epilog="Examples: branchwise eval problems.jsonl -s greedy,majority,beam,dvts -n 4,16 --seeds 3"
    " | branchwise eval problems.jsonl --limit 20 --policy policy.gguf --prm prm.gguf -n 16",
)(evaluate.evaluate)
app.command(
    "train-head",
    epilog="Example: branchwise train-head problems.jsonl --policy policy.gguf -n 8 --out head.safetensors",
)(train_head.train_head)
app.command("votes", epilog="Example: branchwise votes problems.results -n 1,4,16 --vote majority,weighted")(
    votes.votes
)
app.command(
    "calibrate",
    epilog="Example: branchwise eval train.jsonl -s dvts,best_of_n -n 16 --limit 400, then:"
    " branchwise calibrate train.results --out mine.json, then: branchwise solve '...' -s auto --calibration mine.json",
)(calibrate.calibrate)
app.command("doctor", epilog="Example: branchwise doctor --json")(doctor.doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with `arguments`, by default those of the process, and return its exit code."""
    # OpenMP threads sleep soon when they wait: beside other programs, spinning costs far more than it saves.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    if os.environ.get("COLUMNS", "").isdecimal() and int(os.environ["COLUMNS"]) < LEAST_WIDTH:
        del os.environ["COLUMNS"]  # some shells say 0
    with guarded_streams():
        try:
            code = _run(arguments)
            sys.stdout.flush()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BranchwiseError as error:
            code = _refused(error)
        return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        app(None if arguments is None else list(arguments), prog_name="branchwise")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
