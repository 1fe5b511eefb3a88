"""`branchwise solve`: one question, its search drawn while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from branchwise.cli import models
from branchwise.cli.options import Json, SearchOptions, check_text, with_search_options
from branchwise.cli.output import make_console, print_json, say
from branchwise.errors import InputError

if TYPE_CHECKING:
    from branchwise.api import Engine
    from branchwise.types import Result

BUNDLED = (
    "Using the bundled models: they solve integer arithmetic of several steps, such as 12+3*4-5+60=?, and nothing else;"
    " name your own with --policy and --prm."
)

DOUBTFUL = 0.5  # an answer that is more probably wrong than right


@with_search_options
def solve(
    question: Annotated[str, typer.Argument(help="What is to be solved, in quotes.", show_default=False)],
    json: Json = False,
    *,
    options: SearchOptions,
) -> None:
    """Solve one question and draw the tree of the search as it grows."""
    if not question.strip():
        raise InputError("the question is empty: write what is to be solved, in quotes")
    check_text("the question", question)
    options.make_strategy(), options.own_judges(), options.engine_config()  # refuse before models load
    if options.policy is None:
        say(make_console(stderr=True), BUNDLED, "dim")
    with models.open_engine(options) as engine:
        if json:
            from branchwise.report.result_json import result_to_dict

            result = engine.solve(question, options.make_strategy())
            print_json(result_to_dict(result))
        else:
            result = _show(engine, question, options)
    if result.confidence is not None and result.confidence < DOUBTFUL:
        from branchwise.cli.live import confidence

        say(make_console(stderr=True), f"warning: this answer is doubtful: {confidence(result)}", "yellow")


def _show(engine: Engine, question: str, options: SearchOptions) -> Result:
    from branchwise.cli.live import describe

    console = make_console()
    result = (
        _watched(engine, question, options) if console.is_terminal else engine.solve(question, options.make_strategy())
    )
    console.print(describe(result, console), soft_wrap=not console.is_terminal)
    return result


def _watched(engine: Engine, question: str, options: SearchOptions) -> Result:
    from rich.live import Live

    from branchwise.cli.live import LiveTree

    console = make_console()
    view = LiveTree(console, question)
    with Live(console=console, get_renderable=view.render, refresh_per_second=8, transient=True):
        return engine.solve(question, options.make_strategy(), on_event=view)
