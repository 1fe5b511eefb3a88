"""One decision rule a file: which steps to grow, which to give up, which answer to choose. No models, no torch."""

from branchwise.strategies.ab_mcts import AbMcts
from branchwise.strategies.auto import Auto
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
from branchwise.strategies.registry import STRATEGIES, make_strategy
from branchwise.strategies.rsa import RSA
from branchwise.strategies.thinking import Thinking
from branchwise.strategies.waves import AdaptiveConsistency, EarlyStopping

__all__ = [
    "DVTS",
    "ETS",
    "MCTS",
    "RSA",
    "STRATEGIES",
    "AbMcts",
    "AdaptiveConsistency",
    "Ask",
    "Auto",
    "BeamSearch",
    "BestOfN",
    "ConfidenceVote",
    "DeepConf",
    "Demand",
    "Drop",
    "EarlyStopping",
    "Finish",
    "Greedy",
    "Limits",
    "Majority",
    "ParticleFilter",
    "ParticleGibbs",
    "Random",
    "Rebase",
    "Reply",
    "State",
    "Strategy",
    "Thinking",
    "WeightedBestOfN",
    "make_strategy",
]
