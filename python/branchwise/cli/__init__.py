"""The command line: `branchwise demo | solve | eval | doctor`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from branchwise.cli import demo, doctor, evaluate, solve
from branchwise.errors import BranchwiseError

INTERRUPTED = 130  # exit code of a program that Ctrl-C ended


class _Commands(TyperGroup):
    """Turns the errors that a user can meet into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BranchwiseError as error:
            typer.echo(f"error: {' '.join(str(error).splitlines())}", err=True)
            raise SystemExit(2) from None
        except KeyboardInterrupt as interrupt:
            typer.echo(str(interrupt) or "interrupted", err=True)
            raise SystemExit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Commands,
    name="branchwise",
    help="Search with small language models: a policy writes steps, a process reward model (PRM) judges them.",
    epilog="Start with: branchwise demo. Exit codes: 0 done, 2 an error that says what to change, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo", epilog="Example: branchwise demo --problems 50")(demo.demo)
app.command(
    "solve",
    epilog="Examples: branchwise solve '12+3*4-5+60=?' --strategy dvts -n 16"
    " | branchwise solve 'A train ...' --policy policy.gguf --prm prm.gguf --temperature 0.7",
)(solve.solve)
app.command(
    "eval", epilog="Example: branchwise eval problems.jsonl --limit 20 --policy policy.gguf --prm prm.gguf -n 16"
)(evaluate.evaluate)
app.command("doctor", epilog="Example: branchwise doctor --json")(doctor.doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with `arguments`, by default those of the process, and return its exit code."""
    # OpenMP threads sleep soon when they wait: beside other programs, spinning costs far more than it saves.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    for stream in (sys.stdout, sys.stderr):
        if (stream.encoding or "").lower().replace("-", "") != "utf8" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # models write any character; a terminal may not know it
    try:
        app(None if arguments is None else list(arguments), prog_name="branchwise")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
