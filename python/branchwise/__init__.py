"""branchwise: test-time search for language models, a policy and a process reward model over one shared KV tree.

    import branchwise as bw

    engine = bw.Engine()                      # the bundled arithmetic pair; or policy=..., prm=...
    result = engine.solve("12+3*4-5=?", strategy="dvts", n=16, expand=4)
    print(result.answer, result.score, result.votes)

Importing it does no torch work: `Engine` and all that needs torch load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from branchwise.errors import (
    BranchwiseError,
    CheckpointError,
    ConfigError,
    EngineStateError,
    InputError,
    OutOfMemory,
    ResultsError,
    StaleNodeError,
    StrategyError,
    TokenizerError,
)
from branchwise.strategies.beam import BeamSearch
from branchwise.strategies.best_of_n import BestOfN, WeightedBestOfN
from branchwise.strategies.dvts import DVTS
from branchwise.strategies.greedy import Greedy
from branchwise.strategies.majority import Majority
from branchwise.strategies.protocol import Ask, Demand, Drop, Finish, Limits, Random, Reply, State, Strategy
from branchwise.types import Cost, Node, Problem, Result, Sampling, Selection

if TYPE_CHECKING:
    from branchwise.api import Engine

__version__ = "0.1.0"
__all__ = [
    "DVTS",
    "Ask",
    "BeamSearch",
    "BestOfN",
    "BranchwiseError",
    "CheckpointError",
    "ConfigError",
    "Cost",
    "Demand",
    "Drop",
    "Engine",
    "EngineStateError",
    "Finish",
    "Greedy",
    "InputError",
    "Limits",
    "Majority",
    "Node",
    "OutOfMemory",
    "Problem",
    "Random",
    "Reply",
    "Result",
    "ResultsError",
    "Sampling",
    "Selection",
    "StaleNodeError",
    "State",
    "Strategy",
    "StrategyError",
    "TokenizerError",
    "WeightedBestOfN",
]


def __getattr__(name: str) -> Any:
    if name == "Engine":
        from branchwise.api import Engine

        return Engine
    raise AttributeError(f"module 'branchwise' has no attribute {name!r}")
