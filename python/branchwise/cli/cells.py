"""What an evaluation runs: every strategy with every N and every seed, and which of them share their samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from branchwise.cli.options import SearchOptions
from branchwise.cli.problems import BadRow
from branchwise.cli.records import Row
from branchwise.cli.strategies import Recipe, check_known, options_of, recipe, split_options
from branchwise.config import check_seed
from branchwise.errors import ConfigError
from branchwise.report.again import Rule, rule_of, why_not
from branchwise.report.folder import file_name
from branchwise.strategies.protocol import Strategy


@dataclass(frozen=True, slots=True)
class Cell:
    """A strategy with its options and a seed.

    options: all of them    unusual: those that differ from their defaults, N apart    source: digest of its file
    seed: of the run    shift: of the seeds that rows have of their own
    """

    strategy: Strategy
    options: dict[str, Any]
    unusual: dict[str, Any]
    source: str | None
    seed: int
    shift: int

    @property
    def n(self) -> int | None:
        """N, where there is one to choose."""
        return self.options.get("n")

    @property
    def own(self) -> dict[str, Any]:
        """Its part of the settings."""
        return {
            "strategy": self.strategy.name, "options": self.options, "source": self.source, "seed": self.seed,
        }  # fmt: skip

    @property
    def name(self) -> str:
        """Of its file."""
        return file_name(self.strategy.name, self.n, self.unusual, self.seed)

    @property
    def label(self) -> str:
        """The strategy with what is unusual about it, in words."""
        return " ".join([self.strategy.name, *(f"{name}={value}" for name, value in self.unusual.items())])

    @property
    def rule(self) -> Rule | None:
        """How it ends, where votes can be taken again."""
        return rule_of(self.own)

    def row(self, row: Row) -> Row:
        """A row as this cell searches it: the seed of its own is another one for every seed of the run."""
        if isinstance(row, BadRow) or row.seed is None:
            return row
        return replace(row, seed=(row.seed + self.shift) % 2**64)


def make_cells(options: SearchOptions, strategies: str, numbers: str | None, seeds: int) -> list[Cell]:
    """Every strategy with every N and every seed; one without an N comes once.

    strategies, numbers: separated by commas    ConfigError: one of them cannot work, or comes twice
    """
    names = [name.strip() for name in strategies.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"--strategy {strategies!r} names no strategy: expected some, as in greedy,majority,beam")
    recipes = [recipe(name) for name in names]
    flags, texts = options.strategy_flags(), split_options(options.strategy_option or [])
    counts: Sequence[int | None] = [None] if numbers is None else whole_numbers("-n", numbers)
    check_known(recipes, {**flags, **texts, **({} if numbers is None else {"n": counts})})
    check_seed(options.seed + seeds - 1)
    cells = []
    for made in recipes:
        for n in counts if "n" in made.types else [None]:
            given = made.options({**flags, **({} if n is None else {"n": n})}, texts)
            strategy = made.strategy(given)
            options.check_judge(strategy)
            cells += _seeded(made, strategy, given, options.seed, seeds)
    _check_distinct(cells)
    return cells


def sources(cells: Sequence[Cell], *, without_chance: bool) -> dict[str, Cell]:
    """By the name of each cell that need not run: the one whose record says what it would find.

    That is the first of the cells with the most candidates, judged ones before others, and those that tell how sure the
    policy was. No seed matters to a greedy one.
    """
    groups: dict[object, list[tuple[Cell, Rule]]] = {}
    for cell in cells:
        rule = cell.rule
        if rule is not None and rule.independent:
            greedy = without_chance or cell.strategy.name == "greedy"
            kind = cell.strategy.name == "greedy", cell.options["max_steps"]
            groups.setdefault((kind, None if greedy else cell.seed), []).append((cell, rule))
    found = {}
    for group in groups.values():
        source, have = max(group, key=lambda item: (item[1].judged, item[1].told is not None, item[1].n))
        found.update({cell.name: source for cell, want in group if cell is not source and not why_not(have, want)})
    return found


def _seeded(made: Recipe, strategy: Strategy, given: dict[str, object], seed: int, seeds: int) -> list[Cell]:
    options, unusual = options_of(strategy, given)
    options = json.loads(json.dumps(options, default=repr))  # as they come back from a file
    unusual.pop("n", None)
    return [Cell(strategy, options, unusual, made.source, seed + shift, shift) for shift in range(seeds)]


def whole_numbers(option: str, text: str) -> list[int]:
    """Numbers that are separated by commas. ConfigError: they are none, less than 1, or one comes twice."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    try:
        numbers = [int(word) for word in words]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1 or len(set(numbers)) < len(numbers):
        raise ConfigError(f"{option} {text}: expected whole numbers of at least 1, each once, as in {option} 4,16")
    return numbers


def _check_distinct(cells: Sequence[Cell]) -> None:
    known: dict[str, Cell] = {}
    for cell in cells:
        twin = known.setdefault(cell.name, cell)
        if twin is not cell:
            what = "was given twice" if twin.source == cell.source else "is the name of two: give yours another `name`"
            raise ConfigError(f"--strategy: {cell.label!r} {what}")
