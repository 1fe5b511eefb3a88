"""Without chance all samples are equal: one is drawn, and stands for all of them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from typing import Any

from branchwise.strategies.protocol import Action, Demand, Limits, Random, Reply, State, Strategy
from branchwise.strategies.registry import NOT_ALIKE, STRATEGIES
from branchwise.types import Node, Problem, Selection

ONE = {"n": 1, "expand": 1, "iterations": 1, "references": 0}  # options of a strategy that grows one branch


@dataclass(frozen=True, slots=True)
class OneForAll:
    """A strategy of n branches that would all be equal: grows one, which counts as n in votes and weights."""

    name: str
    one: Strategy
    n: int

    def demand(self, limits: Limits) -> Demand:
        """That of one branch."""
        return self.one.demand(limits)

    def start(self, problem: Problem, root: Node, random: Random) -> State:
        """As the strategy does, for one branch."""
        state = self.one.start(problem, root, random)
        state.copies = self.n
        return state

    def propose(self, state: State) -> list[Action]:
        """As the strategy does."""
        return self.one.propose(state)

    def observe(self, state: State, replies: list[Reply]) -> None:
        """As the strategy does."""
        self.one.observe(state, replies)

    def select(self, state: State) -> Selection:
        """As the strategy does, and say how many the one stands for."""
        selection = self.one.select(state)
        return replace(selection, why=f"{selection.why}; all {self.n} would be equal, so one was drawn")


def without_chance(strategy: Strategy) -> Strategy:
    """What to run where every token is the likeliest one.

    A strategy of one's own runs as it is: it may ask otherwise. So do those in `NOT_ALIKE`.
    """
    whole: Any = strategy
    if type(strategy) not in STRATEGIES.values() or type(strategy) in NOT_ALIKE or whole.n == 1:
        return strategy
    options = {each.name for each in fields(whole)}
    one = copy.copy(whole)  # what it knows beside its options stays
    for name in options & ONE.keys():
        object.__setattr__(one, name, ONE[name])
    return OneForAll(strategy.name, one, whole.n)
