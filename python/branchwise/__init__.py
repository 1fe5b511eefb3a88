"""branchwise: test-time search for language models, a policy and a process reward model over one shared KV tree.

    import branchwise as bw

    engine = bw.Engine()                      # the bundled arithmetic pair; or policy=..., prm=...
    result = engine.solve("12+3*4-5=?", strategy="dvts", n=16, expand=4)
    print(result.answer, result.score, result.votes)

Importing it imports nothing else: every name loads on first use.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in `typing`, which would take as long as all else here
if TYPE_CHECKING:
    from typing import Any

    from branchwise.api import Engine
    from branchwise.config import EngineConfig
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
    from branchwise.pair.protocol import Judge
    from branchwise.prm_format import PrmFormat
    from branchwise.scoring.confidence import ConfidenceJudge
    from branchwise.scoring.function import PythonJudge
    from branchwise.scoring.generating import GeneratingJudge
    from branchwise.scoring.implicit import ImplicitJudge
    from branchwise.scoring.value_head import ValueHead
    from branchwise.scoring.verdicts import prompt_verdict
    from branchwise.strategies.ab_mcts import AbMcts
    from branchwise.strategies.beam import BeamSearch
    from branchwise.strategies.best_of_n import BestOfN, WeightedBestOfN
    from branchwise.strategies.confidence_vote import ConfidenceVote
    from branchwise.strategies.deepconf import DeepConf
    from branchwise.strategies.dvts import DVTS
    from branchwise.strategies.ets import ETS
    from branchwise.strategies.greedy import Greedy
    from branchwise.strategies.majority import Majority
    from branchwise.strategies.mcts import MCTS
    from branchwise.strategies.particles import ParticleFilter, ParticleGibbs
    from branchwise.strategies.protocol import Ask, Demand, Drop, Finish, Limits, Random, Reply, State, Strategy
    from branchwise.strategies.rebase import Rebase
    from branchwise.strategies.rsa import RSA
    from branchwise.strategies.thinking import Thinking
    from branchwise.strategies.waves import AdaptiveConsistency, EarlyStopping
    from branchwise.training.train import train_head
    from branchwise.types import Candidate, Cost, Node, Problem, Result, Sampling, Selection

__version__ = "0.1.0"
__all__ = [
    "DVTS",
    "ETS",
    "MCTS",
    "RSA",
    "AbMcts",
    "AdaptiveConsistency",
    "Ask",
    "BeamSearch",
    "BestOfN",
    "BranchwiseError",
    "Candidate",
    "CheckpointError",
    "ConfidenceJudge",
    "ConfidenceVote",
    "ConfigError",
    "Cost",
    "DeepConf",
    "Demand",
    "Drop",
    "EarlyStopping",
    "Engine",
    "EngineConfig",
    "EngineStateError",
    "Finish",
    "GeneratingJudge",
    "Greedy",
    "ImplicitJudge",
    "InputError",
    "Judge",
    "Limits",
    "Majority",
    "Node",
    "OutOfMemory",
    "ParticleFilter",
    "ParticleGibbs",
    "PrmFormat",
    "Problem",
    "PythonJudge",
    "Random",
    "Rebase",
    "Reply",
    "Result",
    "ResultsError",
    "Sampling",
    "Selection",
    "StaleNodeError",
    "State",
    "Strategy",
    "StrategyError",
    "Thinking",
    "TokenizerError",
    "ValueHead",
    "WeightedBestOfN",
    "prompt_verdict",
    "train_head",
]

_MODULES = {
    "errors": "BranchwiseError CheckpointError ConfigError EngineStateError InputError OutOfMemory ResultsError"
    " StaleNodeError StrategyError TokenizerError",
    "types": "Candidate Cost Node Problem Result Sampling Selection",
    "strategies": "AbMcts AdaptiveConsistency BeamSearch BestOfN ConfidenceVote DeepConf DVTS EarlyStopping ETS"
    " Greedy Majority MCTS ParticleFilter ParticleGibbs Rebase RSA Thinking WeightedBestOfN",
    "strategies.protocol": "Ask Demand Drop Finish Limits Random Reply State Strategy",
    "config": "EngineConfig",
    "pair.protocol": "Judge",
    "prm_format": "PrmFormat",
    "scoring.confidence": "ConfidenceJudge",
    "scoring.function": "PythonJudge",
    "scoring.generating": "GeneratingJudge",
    "scoring.implicit": "ImplicitJudge",
    "scoring.value_head": "ValueHead",
    "scoring.verdicts": "prompt_verdict",
    "training.train": "train_head",
    "api": "Engine",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'branchwise' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"branchwise.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
