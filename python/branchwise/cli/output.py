"""Where commands print: results to stdout, everything about progress to stderr.

What reads stdout may go away, and a disk under it may fill up: a command ends then, with an exit code that says so.
That stderr is lost ends nothing.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from branchwise.errors import ResultsError
from branchwise.report.plain import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from branchwise.report.text_tree import Glyphs

PLAIN_WIDTH = 100  # columns where stdout is no terminal
_WIDEST = 1000  # columns of a table there
LEAST_WIDTH = 40  # where a terminal claims to be narrower, lines wrap
NOBODY_READS = 141  # exit code of a program that a closed pipe ended

# What JSON leaves as it is though it may steer a terminal, or is half a character.
_STEERING = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def make_console(*, stderr: bool = False) -> Console:
    """A console that takes text as it is: no markup, no emoji codes, no highlighting of numbers."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    made = Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=width)
    if made.width < LEAST_WIDTH:
        made.width = LEAST_WIDTH
    return made


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a sentence on a line of its own, however long."""
    console.print(printable(text), style=style, soft_wrap=True)


def print_table(console: Console, table: Table) -> None:
    """Print a table; where stdout is no terminal, as wide as it is."""
    if not console.is_terminal:
        wide = console.options.update(max_width=_WIDEST)
        console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)


def glyphs_of(console: Console) -> Glyphs:
    """Line drawing that the console's encoding can show."""
    from branchwise.report.text_tree import ASCII, UNICODE

    return UNICODE if console.encoding.startswith("utf") else ASCII


def print_json(document: dict[str, Any]) -> None:
    """Print the one JSON document of a command, with escapes where the encoding lacks a character."""
    text = json.dumps(document, indent=2, ensure_ascii=not _is_utf8(sys.stdout), allow_nan=False)
    sys.stdout.write(_STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


class _Stream:
    """A standard stream that writes until it cannot."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lost(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        """Send the rest, and what is still buffered, nowhere."""
        with suppress(OSError, ValueError):  # there may be no file behind it
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


class _Stdout(_Stream):
    """Raises SystemExit when nobody reads any more, ResultsError when the output cannot be written."""

    def _lost(self, error: OSError) -> None:
        super()._lost(error)
        if isinstance(error, BrokenPipeError):
            raise SystemExit(NOBODY_READS)
        raise ResultsError(f"cannot write the output: {error.strerror}") from error


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Guard stdout and stderr, and let them take every character: models write any, a terminal may not know it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace" if _is_utf8(stream) else "replace")
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Stdout(sys.stdout), _Stream(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _is_utf8(stream: TextIO) -> bool:
    return (stream.encoding or "").lower().replace("-", "").replace("_", "") == "utf8"
