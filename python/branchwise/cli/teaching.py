"""The help of commands that search: behind their options, every strategy with what it does and which options it has."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from branchwise.cli.output import make_console


class TeachingCommand(TyperCommand):
    """A command whose help lists the strategies, as their classes describe themselves."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help of any command, then the list."""
        from branchwise.cli.strategies import strategy_rows
        from branchwise.report.table import table

        super().format_help(ctx, formatter)
        make_console().print(table(["strategy", "what it does", "-n", "options: -O"], strategy_rows(), names=4))
