"""Searching for a solution step by step: the strategies, and the driver that runs many searches at once."""

from branchwise.search.beam import BeamSearch
from branchwise.search.best_of_n import BestOfN, WeightedBestOfN
from branchwise.search.driver import run
from branchwise.search.dvts import DVTS
from branchwise.search.greedy import Greedy
from branchwise.search.majority import Majority
from branchwise.search.registry import STRATEGIES, make_strategy
from branchwise.search.step_engine import Event, Progress, StepEngine, TreeHandle

__all__ = [
    "DVTS",
    "STRATEGIES",
    "BeamSearch",
    "BestOfN",
    "Event",
    "Greedy",
    "Majority",
    "Progress",
    "StepEngine",
    "TreeHandle",
    "WeightedBestOfN",
    "make_strategy",
    "run",
]
