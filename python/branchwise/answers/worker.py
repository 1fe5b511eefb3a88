"""What math-verify is asked in its worker process (`workers.serve`): are these two equal?"""

from __future__ import annotations

import logging

import math_verify

logging.disable(logging.CRITICAL)  # math-verify warns at each call that the caller keeps the time, as it does


def answer(request: tuple[str, str]) -> bool:
    """True when both parse and math-verify finds them equal; its own time limits are off, they need the main thread."""
    ours, gold = request
    try:
        parsed = [math_verify.parse(f"${text.replace('$', '')}$", parsing_timeout=None) for text in (gold, ours)]
        return bool(all(parsed) and math_verify.verify(parsed[0], parsed[1], timeout_seconds=None))
    except (MemoryError, RecursionError):
        return False  # beyond any answer worth a vote
