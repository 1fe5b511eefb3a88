"""The process behind `host.Worker`: answers requests one JSON line at a time, and may be killed at any time.

Run as a script. Imports nothing of branchwise, so that it starts fast and holds little memory; the task it serves is a
Python file with a function `answer(request)`, and perhaps one `prepare(setup)`.
"""

from __future__ import annotations

import faulthandler
import json
import signal
import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from typing import Any, TextIO


def main() -> None:
    """Read the host's settings from the first line, then requests; write one JSON line for each line read."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the host, which ends this process
    replies, sys.stdout = sys.stdout, sys.stderr  # what a task prints is no reply
    settings: dict[str, Any] = json.loads(sys.stdin.readline())
    sys.path[:] = settings["path"]
    try:
        task = _load(settings["task"])
        if hasattr(task, "prepare"):
            task.prepare(settings["setup"])
    except ImportError as error:
        _reply(replies, json.dumps({"error": str(error)}))
        return
    _limit_memory(settings["memory"])
    _reply(replies, json.dumps({"ready": True}))
    for line in sys.stdin:
        # Ends this process even if the host is gone and a big-number operation never returns to Python.
        faulthandler.dump_traceback_later(settings["seconds"] + 1.0, exit=True)
        try:
            reply = json.dumps({"answer": task.answer(json.loads(line))})
        except MemoryError:
            reply = json.dumps({"error": "memory"})
        _reply(replies, reply)
        faulthandler.cancel_dump_traceback_later()


def _load(path: str) -> ModuleType:
    spec = spec_from_file_location("task", path)
    assert spec is not None
    assert spec.loader is not None
    task = sys.modules["task"] = module_from_spec(spec)
    spec.loader.exec_module(task)
    return task


def _limit_memory(most: int) -> None:
    try:
        import resource
    except ImportError:  # not on this platform: the time limit alone must do
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _reply(replies: TextIO, line: str) -> None:
    replies.write(line + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
