"""Signals that end a command: Ctrl-C, a plain kill, a terminal that has gone.

Once a command runs, the first one is raised, so that files are put in order. A second one ends the process at once, and
so does one before or after that, or during an import, where what is raised may be swallowed. None of them loses a
result, as a kill -9 does not.
"""

from __future__ import annotations

# The public module makes enumerations of these, which takes longer than all that comes before it.
import _signal as signal  # type: ignore[import-not-found]
import os

TYPE_CHECKING = False  # as in `typing`, which takes longer than all else here
if TYPE_CHECKING:
    from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_IMPORTING = "<frozen importlib._bootstrap>"


class Stopped(KeyboardInterrupt):
    """A signal came: no error, so nothing that handles errors holds it up. `code` is the exit code of convention."""

    def __init__(self, number: int) -> None:
        super().__init__("interrupted" if number == signal.SIGINT else "terminated")
        self.code = 128 + number


class Raise:
    """In `with Raise():` the first signal is raised, as `Stopped`. Not to be nested."""

    active = False

    def __enter__(self) -> None:
        Raise.active = True

    def __exit__(self, *_: object) -> None:
        Raise.active = False


class Delay:
    """In `with Delay():` a signal waits until the end, so that what is inside happens as a whole. Not to be nested."""

    active = False
    waiting: int | None = None  # the number of the signal

    def __enter__(self) -> None:
        Delay.active = True

    def __exit__(self, *_: object) -> None:
        Delay.active, number, Delay.waiting = False, Delay.waiting, None
        if number is not None:
            raise Stopped(number)


def watch() -> None:
    """Handle the signals from now on, but for those that whoever started us wants ignored, as `nohup` does."""
    for number in _NUMBERS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    for each in _NUMBERS:
        if signal.getsignal(each) == _stop:
            signal.signal(each, _end)
    if not Raise.active:
        _end(number, frame)
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            _end(number, frame)
        frame = frame.f_back
    if not Delay.active:
        raise Stopped(number)
    Delay.waiting = number


def _end(number: int, _: FrameType | None) -> None:
    try:
        for stream in filter(os.isatty, (1, 2)):
            os.write(stream, b"\r\x1b[2K\x1b[?25h")  # what draws there hides the cursor
        os.write(2, f"{Stopped(number)}\n".encode())
    finally:
        os._exit(128 + number)
