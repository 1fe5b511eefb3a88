"""The command line as a process, by `python -m branchwise` or as `branchwise`: signals and streams, then the commands.

Everything else is imported when those are in order, so that Ctrl-C in the first moment is no traceback.
"""

from __future__ import annotations

import os
import sys

from branchwise import signals


def main() -> int:
    """Run the command line with the arguments of the process, and return its exit code."""
    signals.watch()
    _open_streams()
    from branchwise.cli import main

    return main()


def _open_streams() -> None:
    """Give closed streams /dev/null, whose numbers the next files would get otherwise, and their text with them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # open as long as the process


if __name__ == "__main__":
    sys.exit(main())
