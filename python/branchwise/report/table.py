"""A table of text cells: the first columns to the left, numbers to the right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, names: int = 1, title: str | None = None) -> Table:
    """A rich table. The first `names` columns hold words, the others numbers; cells are plain text, never markup."""
    made = Table(box=box.SIMPLE_HEAD, title=title and Text(title), title_justify="left", pad_edge=False)
    for place, column in enumerate(columns):
        made.add_column(
            Text(column), justify="left" if place < names else "right", no_wrap=place >= names, overflow="fold"
        )
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made
