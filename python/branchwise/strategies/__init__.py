"""One decision rule a file: which steps to grow, which to give up, which answer to choose. No models, no torch."""

from branchwise.strategies.beam import BeamSearch
from branchwise.strategies.best_of_n import BestOfN, WeightedBestOfN
from branchwise.strategies.dvts import DVTS
from branchwise.strategies.greedy import Greedy
from branchwise.strategies.majority import Majority
from branchwise.strategies.protocol import Ask, Demand, Drop, Finish, Limits, Random, Reply, State, Strategy
from branchwise.strategies.registry import STRATEGIES, make_strategy

__all__ = [
    "DVTS",
    "STRATEGIES",
    "Ask",
    "BeamSearch",
    "BestOfN",
    "Demand",
    "Drop",
    "Finish",
    "Greedy",
    "Limits",
    "Majority",
    "Random",
    "Reply",
    "State",
    "Strategy",
    "WeightedBestOfN",
    "make_strategy",
]
