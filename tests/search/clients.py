"""Clients of a service on a scripted pair, for its tests."""

from __future__ import annotations

from typing import Any

from branchwise.search import driver
from branchwise.search.by_hand import Opening, StepTree
from branchwise.search.service import Service
from branchwise.search.session import SearchOptions
from branchwise.search.ticket import Ticket
from branchwise.strategies import BeamSearch, Demand, Strategy
from branchwise.types import Problem, Result, Settings
from search.scripted import ScriptedPair, shape

BEAM = BeamSearch(n=4, expand=2, max_steps=5)


def submit(service: Service[Any], name: str, strategy: Strategy, **options: Any) -> Ticket[Result]:
    """A search of one problem."""
    return driver.submit(service, Problem(name, name), SearchOptions(strategy, Settings(), **options))


def open_tree(service: Service[Any], name: str = "hand", branches: int = 8) -> StepTree:
    """A tree to be grown by hand."""
    job = Opening(service, Problem(name, name), Demand(branches, 0, None, scores=True), Settings())
    tree: StepTree = service.submit(job).result()
    return tree


def alone(name: str, strategy: Strategy) -> object:
    """What a search finds on a service of its own."""
    return shape(submit(Service(ScriptedPair()), name, strategy).result())
