"""Scores of texts that the policy did not write: the job of one question and all that is to be scored of it."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from branchwise.errors import ConfigError, InputError
from branchwise.pair.protocol import TreeT
from branchwise.search.call import Call, places_of
from branchwise.search.request import Scoring
from branchwise.search.service import Service
from branchwise.search.ticket import Ticket
from branchwise.types import Node

Scores = list[float | None]


@dataclass(frozen=True, slots=True)
class Texts:
    """A question and solutions of it, step by step. reuse: see `Settings`."""

    question: str
    solutions: Sequence[Sequence[str]]
    reuse: bool


class StepScoresJob(Generic[TreeT]):
    """A tree of the judge alone, with a path for each solution: what several of them begin with is scored once."""

    needs_room = True

    def __init__(self, service: Service[TreeT], texts: Texts) -> None:
        self.deadline: float | None = None
        self._service = service
        self._texts = texts
        self._root = Node(0, None, 0, 0, 0)
        self._paths = [_path(self._root, steps) for steps in texts.solutions]
        self._tree: TreeT | None = None  # while it is open
        self._scoring: Scoring[TreeT] | None = None

    def begin(self) -> bool:
        """Open the tree and ask for all scores."""
        pair = self._service.pair
        self._tree = pair.open_texts(self._root, self._texts.question, reuse=self._texts.reuse)
        if self._tree is None:
            return False
        nodes = list(dict.fromkeys(node for path in self._paths for node in path))
        self._scoring = Scoring(self, pair, self._service.board, self._tree, nodes, "given texts")
        self._scoring.begin()
        for path in self._paths:
            _check_context(path)
        return True

    def advance(self) -> None: ...
    def cut(self) -> None: ...

    @property
    def is_over(self) -> bool:
        return self._scoring is not None and self._scoring.is_complete

    def finish(self) -> list[Scores]:
        """The scores of every solution."""
        self.abort()
        return [[node.score for node in path] for path in self._paths]

    def abort(self) -> None:
        """Free everything; again, it does nothing."""
        if self._tree is None:
            return
        if self._scoring is not None:
            self._scoring.cancel()
        tree, self._tree = self._tree, None
        self._service.pair.close(tree)


class OneSolution(StepScoresJob[TreeT]):
    """The same for a solution that is asked for by itself."""

    def finish(self) -> Scores:  # type: ignore[override]  # a job may return anything
        return super().finish()[0]


def _path(root: Node, steps: Sequence[str]) -> list[Node]:
    """The nodes of a solution below a root; those that are there already are the same."""
    path, node = [], root
    for text in steps:
        known = next((child for child in node.children if child.text == text), None)
        if known is None:
            known = Node(0, node, len(node.children), node.depth + 1, 0, text=text, finish="stop")
            node.children.append(known)
        path.append(node := known)
    return path


def _check_context(path: Sequence[Node]) -> None:
    for node in path:
        if node.cut == "prm_context":
            raise InputError(
                f"step {node.depth} of {len(path)} ({reprlib.repr(node.text)}) does not fit into the PRM's context:"
                " shorten the steps, or take a PRM of a longer context"
            )


def submit_texts(service: Service[Any], requests: object, *, reuse: bool) -> Call[Scores]:
    """Queue the steps of many solutions, those of equal questions together. InputError, ConfigError: they cannot be."""
    if isinstance(requests, str) or not isinstance(requests, Iterable):
        raise InputError(f"score_steps was given {reprlib.repr(requests)}: expected a list of (question, steps)")
    given = []
    for place, request in enumerate(requests):
        if isinstance(request, str) or not isinstance(request, Sequence) or len(request) != 2:
            raise InputError(f"request {place} is {reprlib.repr(request)}: expected (question, [step, step, ...])")
        question, steps = request
        given.append(_checked(question, steps, f"request {place}: "))
    _check_judge(service)
    groups = places_of(question for question, _ in given)
    texts = [Texts(given[places[0]][0], [given[place][1] for place in places], reuse) for places in groups]
    return Call([service.submit(StepScoresJob(service, each)) for each in texts], groups)


def submit_solution(service: Service[Any], question: object, steps: object, *, reuse: bool) -> Ticket[Scores]:
    """Queue the steps of one solution. InputError, ConfigError: they cannot be scored."""
    text, given = _checked(question, steps)
    _check_judge(service)
    return service.submit(OneSolution(service, Texts(text, [given], reuse)))


def _checked(question: object, steps: object, name: str = "") -> tuple[str, list[str]]:
    """A question and its steps. InputError: there is nothing to score, or what is no text."""
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{name}the question is {reprlib.repr(question)}: expected some text")
    if isinstance(steps, str) or not isinstance(steps, Sequence):
        raise InputError(f"{name}the steps are {reprlib.repr(steps)}: expected a list of texts")
    for number, step in enumerate(steps, start=1):
        if not isinstance(step, str) or not step:
            raise InputError(f"{name}step {number} of {len(steps)} is {reprlib.repr(step)}: expected some text")
    return question, list(steps)


def _check_judge(service: Service[Any]) -> None:
    if not service.pair.scores:
        raise ConfigError("step scores are needed, but the engine has no judge: give it a PRM with prm=...")
