"""Strategies by name, for the command line and for `strategy="..."`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from branchwise.errors import ConfigError
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
from branchwise.strategies.options import nearest
from branchwise.strategies.parity.cotts_beam import CottsBeam
from branchwise.strategies.parity.its_beam import ItsBeam
from branchwise.strategies.parity.sal_beam import SalBeam
from branchwise.strategies.parity.sal_dvts import SalDvts
from branchwise.strategies.particles import ParticleFilter, ParticleGibbs
from branchwise.strategies.protocol import Strategy
from branchwise.strategies.rebase import Rebase
from branchwise.strategies.rsa import RSA
from branchwise.strategies.thinking import Thinking
from branchwise.strategies.waves import AdaptiveConsistency, EarlyStopping

PARITY: tuple[type[Any], ...] = (SalBeam, SalDvts, CottsBeam, ItsBeam)
"""As other people's code has them."""
NOT_ALIKE: tuple[type[Any], ...] = (*PARITY, RSA)
"""Those that run as they are without chance, too: n branches of them are more than n times the same one."""

_OWN: tuple[type[Any], ...] = (
    Greedy, Majority, AdaptiveConsistency, EarlyStopping, ConfidenceVote, DeepConf, BestOfN, WeightedBestOfN,
    BeamSearch, DVTS, Rebase, ETS, ParticleFilter, ParticleGibbs, MCTS, AbMcts, RSA, Thinking, Auto,
)  # fmt: skip
STRATEGIES: Mapping[str, type[Any]] = MappingProxyType({each.name: each for each in (*_OWN, *PARITY)})


def make_strategy(strategy: str | Strategy, **options: object) -> Strategy:
    """Return a strategy by name with its options ("-" and "_" are the same in a name), or the given one unchanged.

    Raises ConfigError for an unknown name or option, naming the nearest valid one; for an option value that cannot
    work; and for options beside a ready strategy.
    """
    if not isinstance(strategy, str):
        check_strategy(strategy)
        if options:
            given = ", ".join(options)
            raise ConfigError(f"{given} given beside a ready strategy {strategy!r}: set it there, or pass a name")
        return strategy
    name = strategy.replace("-", "_").lower()
    if name not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise ConfigError(f"strategy {strategy!r} is unknown: choose one of {known}{nearest(name, STRATEGIES)}")
    valid = option_names(name)
    for option in options:
        if option not in valid:
            known = ", ".join(valid)
            raise ConfigError(f"strategy {name!r} has no option {option!r}: it has {known}{nearest(option, valid)}")
    made: Strategy = STRATEGIES[name](**options)
    return made


def check_strategy(strategy: object) -> None:
    """Raise ConfigError unless it can decide: an instance of a class that does what `Strategy` says."""
    missing = [name for name in ("demand", "start", "propose", "observe", "select") if not _can(strategy, name)]
    if isinstance(strategy, type) or missing or not isinstance(getattr(strategy, "name", None), str):
        why = f"it lacks {', '.join(missing)}" if missing else "its `name` is no text"
        raise ConfigError(
            f"strategy {strategy!r}: "
            + (f"expected an instance, as in {strategy.__name__}()" if isinstance(strategy, type) else why)
            + f"; a strategy is one of {', '.join(STRATEGIES)}, or an object with the methods of branchwise.Strategy"
        )


def _can(strategy: object, name: str) -> bool:
    return callable(getattr(strategy, name, None))


def option_names(name: str) -> list[str]:
    """The options of the strategy called `name`."""
    return [field.name for field in fields(STRATEGIES[name]) if field.init]
