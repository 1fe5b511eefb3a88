"""The process that runs math-verify: answers "are these two equal?" one line at a time, and may be killed at any time.

Run as a script by `grade.Grader`. Imports nothing of branchwise, so that it starts fast and holds little memory.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
from typing import Any

MEMORY_BYTES = 2 << 30  # towers of powers fill memory as fast as they fill time


def main() -> None:
    """Read the caller's settings from the first line, then pairs; write one JSON line for each line read."""
    settings: dict[str, Any] = json.loads(sys.stdin.readline())
    sys.path[:] = settings["path"]
    try:
        import math_verify
    except ImportError as error:
        _reply({"error": str(error)})
        return
    _limit_memory()
    logging.disable(logging.CRITICAL)  # math-verify warns at each call that the caller keeps the time, as it does
    _reply({"ready": True})
    for line in sys.stdin:
        answer, gold = json.loads(line)
        # Ends this process even if the caller is gone and a big-number operation never returns to Python.
        faulthandler.dump_traceback_later(settings["seconds"] + 1.0, exit=True)
        _reply({"equal": _equal(math_verify, answer, gold)})
        faulthandler.cancel_dump_traceback_later()


def _equal(math_verify: Any, answer: str, gold: str) -> bool:
    """True when both parse and math-verify finds them equal; its own time limits are off, they need the main thread."""
    try:
        parsed = [math_verify.parse(f"${text.replace('$', '')}$", parsing_timeout=None) for text in (gold, answer)]
        return bool(all(parsed) and math_verify.verify(parsed[0], parsed[1], timeout_seconds=None))
    except (MemoryError, RecursionError):
        return False  # beyond any answer worth a vote


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on this platform: the time limit alone must do
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _reply(message: dict[str, Any]) -> None:
    os.write(1, (json.dumps(message) + "\n").encode())


if __name__ == "__main__":
    main()
