"""A Python function as a judge: in this process, or in one of its own with a limit of time and memory.

What goes wrong in it costs the branch its score, which says why, and nothing else: other branches are asked for alone.
"""

from __future__ import annotations

import base64
import inspect
import math
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from branchwise.config import is_number
from branchwise.errors import ConfigError
from branchwise.scoring.queued import QueuedScorer, QueuedTree
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Node
from branchwise.workers.host import Worker, WorkerFailure

Branches = Sequence[Sequence[str]]
TASK = Path(__file__).with_name("function_task.py")
LEAST_MEMORY = 64 << 20


@dataclass(frozen=True, slots=True)
class PythonJudge:
    """Judges steps by `function(question, branches)`, which returns a number for each branch.

    question: text    branches: the texts of the steps of each, whose last one is to be judged

    The number is P(good) of that step where a strategy takes it for one; any finite number ranks. An object with a
    method `score` may take the function's place.

    isolate  run it in a process of its own: the function must pickle, which those of a notebook do not
    seconds  of a call there at most; memory: bytes of that process at most
    """

    function: Callable[[str, Branches], Sequence[float]]
    isolate: bool = False
    seconds: float = 10.0
    memory: int = 4 << 30

    def __post_init__(self) -> None:
        if not callable(self.call):
            raise ConfigError(
                f"judge {self.function!r}: expected a function of (question, branches), or an object with a method"
                " `score` that is one"
            )
        _check_takes(self.name, self.call)
        if not is_number(Real, self.seconds) or not self.seconds > 0:
            raise ConfigError(f"judge {self.name}: seconds={self.seconds!r}: expected more than 0")
        if not is_number(Real, self.memory) or self.memory < LEAST_MEMORY:
            raise ConfigError(f"judge {self.name}: memory={self.memory!r}: expected {LEAST_MEMORY:,} bytes or more")
        if self.isolate:
            _pickled(self)  # a function that does not pickle is told of before anything runs

    @property
    def call(self) -> Any:
        """What is called: the method `score` where there is one."""
        return getattr(self.function, "score", self.function)

    @property
    def name(self) -> str:
        return str(getattr(self.function, "__name__", type(self.function).__name__))


@dataclass(slots=True, eq=False)
class FunctionTree(QueuedTree):
    """One problem as the function sees it."""

    known: dict[tuple[str, ...], float | str] = field(default_factory=dict)  # scores, or why there is none


class FunctionScorer(QueuedScorer[FunctionTree]):
    """A `Judge` that asks a function."""

    def __init__(self, judge: PythonJudge, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self.judge = judge
        self._worker = _worker(judge) if judge.isolate else None

    def open(self, root: Node, question: str, **sizes: Any) -> FunctionTree:
        """Start a tree for a question; its sizes do not matter."""
        return FunctionTree(root, question)

    def check_text(self, index: int, text: str) -> None:
        """Any text can be asked about."""

    def poll(self, *, least: int = 1, alone: bool = False) -> list[Node]:
        """Ask the function about all that waits, a call for each tree; the steps whose scores became known."""
        queue = self._take()
        by_tree: dict[FunctionTree, list[Node]] = {}
        for node, tree in queue.items():
            by_tree.setdefault(tree, []).append(node)
        for tree, nodes in by_tree.items():
            branches = {node: tuple(step.text for step in node.path) for node in nodes}
            new = [branch for branch in dict.fromkeys(branches.values()) if branch not in tree.known]
            tree.known.update(zip(new, self._ask(tree.question, new), strict=True))
            for node, branch in branches.items():
                given = tree.known[branch]
                if isinstance(given, str):
                    node.unjudged = given
                else:
                    node.score = given
        return list(queue)

    def free(self) -> None:
        """End the process of the function, if it has one."""
        if self._worker is not None:
            self._worker.close()

    def _ask(self, question: str, branches: Sequence[tuple[str, ...]]) -> list[float | str]:
        """A number for each branch, or why there is none."""
        if not branches:
            return []
        given = self._call(question, branches)
        if isinstance(given, str) and len(branches) > 1:  # whose fault it is, each alone will say
            return [self._ask(question, [branch])[0] for branch in branches]
        return [given] if isinstance(given, str) else [_number(self.judge.name, value) for value in given]

    def _call(self, question: str, branches: Branches) -> Sequence[Any] | str:
        """What the function returns, one value a branch; or what went wrong."""
        name, lists = self.judge.name, [list(branch) for branch in branches]
        given: Any
        try:
            if self._worker is None:
                given = list(self.judge.call(question, lists))
            else:
                given = self._worker.ask({"question": question, "branches": lists})
        except WorkerFailure as failure:
            over = {"time": f"took longer than {self.judge.seconds:g} s", "memory": "ran out of memory"}
            return f"judge {name} {over.get(str(failure), 'ended its process')}"
        except Exception as error:
            return f"judge {name} raised {type(error).__name__}: {error}"
        if isinstance(given, dict):
            return f"judge {name} {given['error']}"
        if len(given) != len(lists):
            return f"judge {name} returned {len(given)} numbers for {len(lists)} branches"
        return list(given)


def _check_takes(name: str, call: Any) -> None:
    """Raise ConfigError where it is known that the function cannot be called with a question and branches."""
    if inspect.iscoroutinefunction(call):
        raise ConfigError(f"judge {name} is async: expected a function that returns its numbers when it is called")
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):  # some of C tell nothing
        return
    try:
        signature.bind("", [])
    except TypeError:
        raise ConfigError(f"judge {name} takes {signature}: expected (question, branches)") from None


def _number(name: str, value: Any) -> float | str:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return f"judge {name} returned {value!r}: expected a number"
    return number if math.isfinite(number) else f"judge {name} returned {number}"


def _worker(judge: PythonJudge) -> Worker:
    return Worker(TASK, "what the judge imports", seconds=judge.seconds, memory=judge.memory, setup=_pickled(judge))


def _pickled(judge: PythonJudge) -> dict[str, str]:
    """The function for another process, and the program it is from where that is the main one."""
    main = str(getattr(sys.modules["__main__"], "__file__", None) or "")
    try:
        data = pickle.dumps(judge.function)
    except Exception as error:
        raise ConfigError(
            f"judge {judge.name} does not pickle ({type(error).__name__}: {error}): define it at the top of a file, or"
            " leave out isolate=True"
        ) from None
    if b"__main__" in data and not main:
        raise ConfigError(
            f"judge {judge.name} is from a notebook or a prompt, where another process cannot find it: put it into a"
            " file and import it, or leave out isolate=True"
        )
    return {"data": base64.b64encode(data).decode(), "main": main if b"__main__" in data else ""}
