"""Where commands print: results to stdout, everything about progress to stderr."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from branchwise.report.text_tree import Glyphs

PLAIN_WIDTH = 100  # columns where stdout is no terminal


def make_console(*, stderr: bool = False) -> Console:
    """A console that takes text as it is: no markup, no emoji codes, no highlighting of numbers."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=width)


def glyphs_of(console: Console) -> Glyphs:
    """Line drawing that the console's encoding can show."""
    from branchwise.report.text_tree import ASCII, UNICODE

    return UNICODE if console.encoding.startswith("utf") else ASCII


def print_json(document: dict[str, Any]) -> None:
    """Print the one JSON document of a command."""
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")
    sys.stdout.flush()
