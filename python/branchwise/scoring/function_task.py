"""What the process of a judge function does (`workers.serve`): loads the function when it starts, and asks it."""

from __future__ import annotations

import base64
import pickle
import runpy
import sys
from types import ModuleType
from typing import Any

_CALL: Any = None


def prepare(setup: dict[str, str]) -> None:
    """Load the function. ImportError: it cannot be found here."""
    global _CALL
    if setup["main"]:  # as `multiprocessing` has it: the program is imported, not run
        module = ModuleType("__mp_main__")
        sys.modules["__main__"] = sys.modules["__mp_main__"] = module
        module.__dict__.update(runpy.run_path(setup["main"], run_name="__mp_main__"))
    try:
        function = pickle.loads(base64.b64decode(setup["data"]))
    except Exception as error:
        raise ImportError(f"{type(error).__name__}: {error}") from None
    _CALL = getattr(function, "score", function)


def answer(request: dict[str, Any]) -> Any:
    """The function's numbers, or {"error": what went wrong}."""
    try:
        return [_plain(value) for value in _CALL(request["question"], request["branches"])]
    except MemoryError:
        raise
    except Exception as error:
        return {"error": f"raised {type(error).__name__}: {error}"}


def _plain(value: Any) -> Any:
    """A number as JSON has it; what is none is told of on the other side."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return repr(value)
