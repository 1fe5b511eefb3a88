"""What math-verify is asked in its worker process (`workers.serve`): are these equal?

The slow import happens once: questions go to a fork of the process, which an alarm ends when its time is over, and the
next fork is there in milliseconds.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from typing import Any

import math_verify
import sympy  # type: ignore[import-untyped]

_POINTS = tuple(map(sympy.Rational, ("7/11", "17/13", "37/17", "8/19", "74/23", "49/29")))  # where two must agree
_DIGITS = 40

_child: _Child | None = None


def answer(request: dict[str, Any]) -> bool | None:
    """Whether a question of `compare` holds; None when it took longer than its seconds, or too much memory."""
    global _child
    _child = _child or _Child()
    reply = _child.ask(request)
    if reply is None:
        _child = None
    return reply


class _Child:
    """A fork that answers questions until one of them takes too long."""

    def __init__(self) -> None:
        ask, self._ask = os.pipe()
        self._replies, reply = os.pipe()
        self._pid = os.fork()
        if self._pid:
            os.close(ask)
            os.close(reply)
            return
        os.dup2(ask, 0)
        os.dup2(reply, 1)
        os.closerange(3, 64)  # so that each end of a pipe has one holder, and whoever is left alone notices
        try:
            _serve()
        finally:
            os._exit(0)

    def ask(self, request: dict[str, Any]) -> bool | None:
        """The reply; None when the child ended instead, and is gone."""
        try:
            os.write(self._ask, (json.dumps(request) + "\n").encode())
            reply = os.read(self._replies, 1)
        except BrokenPipeError:
            reply = b""
        if reply:
            return reply == b"1"
        os.close(self._ask)
        os.close(self._replies)
        os.waitpid(self._pid, 0)
        return None


def _serve() -> None:
    """Answer what comes in. The alarm has no handler, so it ends the process, also in the middle of a C call."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with os.fdopen(0, "r", closefd=False) as requests:
        for line in requests:
            request = json.loads(line)
            signal.setitimer(signal.ITIMER_REAL, request["seconds"])
            holds = _holds(request["question"])
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.write(1, b"1" if holds else b"0")


def _holds(question: Any) -> bool:
    """Whether a question of `compare` is answered with yes."""
    if isinstance(question, bool):
        return question
    kind, *rest = question
    if kind == "pair":
        return _equal(*rest)
    if kind == "all":
        return all(map(_holds, rest[0]))
    free = set(range(len(rest[0])))
    for row in rest[0]:
        found = next((column for column in sorted(free) if _holds(row[column])), None)
        if found is None:
            return False
        free.discard(found)
    return True


def _equal(ours: str, gold: str) -> bool:
    """True when both parse and math-verify finds them equal; its own time limits are off, they need the main thread."""
    try:
        parsed = [math_verify.parse(f"${text.replace('$', '')}$", parsing_timeout=None) for text in (gold, ours)]
        if not all(parsed):
            return False
        gold_, ours_ = parsed
        same = _verify(gold_, ours_) or ("|" in ours and _verify(ours_, gold_))  # sees |x| < 3 on the side of gold only
        return same and _agree(gold_[0], ours_[0])
    except (MemoryError, RecursionError):
        return False  # beyond any answer worth a vote


def _verify(gold: Any, ours: Any) -> bool:
    return bool(math_verify.verify(gold, ours, timeout_seconds=None, allow_set_relation_comp=True))


def _agree(gold: Any, ours: Any) -> bool:
    """False when the values differ by more than rounding: math-verify takes all that is tiny for zero."""
    if not (isinstance(gold, sympy.Expr) and isinstance(ours, sympy.Expr)):
        return True
    letters = sorted(gold.free_symbols | ours.free_symbols, key=str)
    point = dict(zip(letters, _POINTS, strict=False))
    try:
        one, other = (side.doit().subs(point).evalf(_DIGITS) for side in (gold, ours))
        largest, apart = max(abs(one), abs(other)), abs(one - other)
        rounded = gold.has(sympy.Float) or ours.has(sympy.Float)
        return bool(apart <= largest * sympy.Float(1e-5 if rounded else 10.0 ** (5 - _DIGITS)))
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return True


logging.disable(logging.CRITICAL)  # math-verify warns at each call that the caller keeps the time, as it does
_equal("x+1", r"\frac{x^2+2x+1}{x+1}")  # lets parser and simplifier import and build what they need
