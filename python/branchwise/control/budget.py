"""One budget for many problems: it is spent in rounds, on the waves that promise most for what they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal

from branchwise.config import is_number
from branchwise.control.account import Account, Wave
from branchwise.control.waves_file import WavesFile
from branchwise.errors import ConfigError
from branchwise.search.driver import run
from branchwise.search.problems import Intake
from branchwise.search.service import Service
from branchwise.search.session import SearchOptions
from branchwise.strategies.auto import Auto
from branchwise.types import Cost, Problem, Result, Settings

Grade = Callable[[str | None, str], bool]
Unit = Literal["tokens", "flops"]
Search = Callable[[Sequence[Problem], int], Iterable[Result]]
"""Search problems, each by the strategy and the seed that it brings; tokens of a solution at most."""

LONGER = 2.0  # a solution may be so many times as long as the longest before it
SHARE = 4  # of the problems, one in so many gets a wave in a round: later rounds know more
UNSURE = 1.25  # FLOPs of a wave beyond what its tokens took elsewhere


@dataclass(frozen=True, slots=True)
class Budget:
    """What all problems may take together.

    tokens  written by the policy, also those that were given up, and read by the judge; prompts apart
    flops   of all models, as `Cost.flops` counts them
    """

    amount: float
    unit: Unit

    def of(self, cost: Cost) -> float:
        """What a wave took."""
        return cost.flops if self.unit == "flops" else tokens_of(cost)


def budget_of(tokens: float | None, flops: float | None) -> Budget | None:
    """What was given of the two. ConfigError: both, or one that is no amount."""
    if tokens is not None and flops is not None:
        raise ConfigError("budget_tokens and budget_flops were both given: expected one of them")
    unit: Unit = "tokens" if flops is None else "flops"
    amount = tokens if flops is None else flops
    if amount is None:
        return None
    if not is_number(Real, amount) or not 1 <= amount < math.inf:
        raise ConfigError(f"budget_{unit}={amount!r}: expected a number of at least 1")
    return Budget(float(amount), unit)


def take_budget(options: dict[str, Any]) -> tuple[Budget | None, str | Path | None]:
    """Budget and file of waves among the options of a call, which are taken out of them."""
    given = [options.pop(name, None) for name in ("budget_tokens", "budget_flops", "waves")]
    budget = budget_of(*given[:2])
    if budget is None and given[2] is not None:
        raise ConfigError(f"waves={given[2]!r} without a budget: give budget_tokens or budget_flops, too")
    return budget, given[2]


def within(
    budget: Budget, problems: Iterable[str | Problem], service: Service[Any], options: SearchOptions, grade: Grade,
    max_in_flight: int, seconds: float | None, waves: str | Path | None,
) -> Iterator[Result]:  # fmt: skip
    """Results of all problems, in order, for one budget; see `Spending`. seconds: of one wave of one problem

    A problem of which no wave succeeded has a result with an `error`. ConfigError: the strategy is not `auto`, what was
    given is no problem or brings a strategy of its own, or the budget is too small.
    """
    auto, settings = options.strategy, replace(options.settings, reuse=False)  # costs do not depend on what ran before
    if not isinstance(auto, Auto):
        raise ConfigError(f"a budget for all problems is spent by the strategy 'auto', not by {auto.name!r}")
    taken = []
    for problem, error in (intake := Intake(problems, settings.seed)):
        if error is not None:
            raise error
        if problem.strategy is not None:
            raise ConfigError(f"problem {problem.id!r} brings a strategy: one budget is spent by 'auto' alone")
        taken.append(problem)
    if intake.failure is not None:
        raise intake.failure

    def search(asked: Sequence[Problem], cap: int) -> Iterator[Result]:
        made = replace(options, settings=replace(settings, max_tokens=cap))
        return run(asked, service, made, max_in_flight=max_in_flight, seconds=seconds)

    def results() -> Iterator[Result]:
        about = {"strategy": asdict(auto), "budget": asdict(budget), "settings": asdict(settings),
                 "problems": [problem.id for problem in taken]}  # fmt: skip
        with WavesFile(None if waves is None else Path(waves), about) as file:
            spending = Spending(taken, auto, budget, search, file, settings)
            spending.run()
        yield from spending.results(grade)

    return results()


def tokens_of(cost: Cost) -> int:
    """See `Budget`."""
    return cost.generated_tokens + cost.speculated_tokens + cost.cancelled_tokens + cost.prm_tokens


class Spending:
    """Spends a budget on a closed set of problems.

    Rounds: every problem gets a first wave, by id; then, a part of the problems at a time, those whose next wave gains
    most for its cost (ties by id), each at most one wave a round. A round is decided by all results of those before it,
    so that neither the order of the problems nor who was faster matters. A wave is begun only if the budget holds the
    most that it can take, which the cap on its solutions bounds; what it leaves goes back.

    auto: its n is the most solutions of one problem    waves: file of what is there already
    """

    def __init__(
        self, problems: Sequence[Problem], auto: Auto, budget: Budget, search: Search, waves: WavesFile,
        settings: Settings,
    ) -> None:  # fmt: skip
        self._accounts = [Account(problem, auto, settings.seed) for problem in problems]
        self._auto, self._budget, self._search, self._waves = auto, budget, search, waves
        self._max_tokens = settings.max_tokens
        self.spent = 0.0

    def run(self) -> None:
        """Spend it. ConfigError: it is too small for a wave of every problem; `waves` keeps what was drawn."""
        while (chosen := self._choose())[0]:
            accounts, cap = chosen
            self._draw(accounts, cap)
            self._check_first(math.inf)
        self._check_first(0.0)

    def results(self, grade: Grade) -> Iterator[Result]:
        """Of every problem, in the order in which they were given."""
        for account in self._accounts:
            yield account.result(grade, "the budget is spent")

    @property
    def left(self) -> float:
        """What is not spent."""
        return self._budget.amount - self.spent

    # --- a round -----------------------------------------------------------------------------------------------

    def _choose(self) -> tuple[list[Account], int]:
        """The problems of the next round, and the tokens of a solution at most."""
        fresh = [each for each in self._accounts if each.is_fresh]
        wanted = fresh or [each for each in self._accounts if each.wants_more]
        if not wanted:
            return [], 0
        known = any(each.waves for each in self._accounts)
        most = len(wanted) if fresh else max(1, math.ceil(len(self._accounts) / SHARE))
        if not known and self._budget.unit == "flops":
            most = 1  # it tells what a token takes
        if not fresh:
            wanted = self._payable(wanted)
            if not wanted:
                return [], 0
        wanted.sort(key=lambda each: (-each.gain / self._expected(each), each.problem.id))
        for cap in self._caps(wanted[0]):
            chosen = self._affordable(wanted, cap)[:most]
            if chosen:
                return chosen, cap
        return [], 0

    def _payable(self, wanted: Sequence[Account]) -> list[Account]:
        """Those that want more, of small waves where what is left does not hold their large ones."""
        cap = min(self._caps(wanted[0]))
        for account in wanted:
            if self._worst(account, cap) > self.left:
                account.shrink()
        return [account for account in wanted if account.wants_more]

    def _affordable(self, wanted: Sequence[Account], cap: int) -> list[Account]:
        """Those whose waves what is left holds, whatever becomes of them; none before one that waits for these."""
        chosen: list[Account] = []
        left = self.left
        for account in wanted:
            worst = self._worst(account, cap)
            if worst <= left:
                chosen.append(account)
                left -= worst
            elif worst <= self.left:
                break
        return chosen

    def _caps(self, first: Account) -> list[int]:
        """Tokens of a solution at most: more than the longest so far, or as many; before there is one, what fits."""
        longest = max((each.longest for each in self._accounts), default=0)
        if longest:
            return [min(self._max_tokens, math.ceil(LONGER * longest)), longest]
        cap = self._max_tokens
        while cap > 1 and self._worst(first, cap) > self.left:
            cap //= 2
        return [cap]

    def _expected(self, account: Account) -> float:
        """What the next wave of this problem takes: by its solutions so far, or those of all before it has had any."""
        waves = account.waves or [wave for each in self._accounts for wave in each.waves]
        drawn = sum(wave.size for wave in waves)
        return max(1.0, account.size * sum(self._budget.of(wave.cost) for wave in waves) / max(1, drawn))

    def _worst(self, account: Account, cap: int) -> float:
        """The most that the next wave can take."""
        written = account.size * cap
        judged = written + account.question_tokens if self._auto.outlook.judged else 0
        if self._budget.unit == "tokens":
            return float(written + judged)
        waves = [wave for each in self._accounts for wave in each.waves]
        each = max((wave.cost.flops / max(1, tokens_of(wave.cost)) for wave in waves), default=0.0)
        return (written + judged) * each * UNSURE

    def _draw(self, accounts: Sequence[Account], cap: int) -> None:
        known = {id(account): self._waves.known(account.key) for account in accounts}
        asked = {id(account.ask()): account for account in accounts if known[id(account)] is None}
        for result in self._search([account.asked for account in asked.values()], cap):
            account = asked[id(result.problem)]
            wave = Wave.of(result)
            if wave.error is None:
                self._waves.write(account.key, wave)
            known[id(account)] = wave
        for account in accounts:
            wave_or_none = known[id(account)]
            assert wave_or_none is not None
            account.add(wave_or_none)
            self.spent += self._budget.of(wave_or_none.cost)

    def _check_first(self, most: float) -> None:
        """Raise ConfigError where what is left, `most` of it, does not hold the first waves that are missing."""
        fresh = [each for each in self._accounts if each.is_fresh]
        if fresh and sum(self._expected(each) for each in fresh) > min(most, self.left):
            mean = self._expected(fresh[0])
            if all(each.is_fresh for each in self._accounts):
                raise ConfigError(
                    f"the budget of {self._budget.amount:,.0f} {self._budget.unit} does not hold one wave of"
                    f" {self._auto.wave} solutions for one of {len(fresh)} problems: raise it"
                )
            raise ConfigError(
                f"a wave of {self._auto.wave} solutions takes about {mean:,.0f} {self._budget.unit} here, which is"
                f" {mean * len(self._accounts):,.0f} for {len(self._accounts)} problems, and the budget is"
                f" {self._budget.amount:,.0f}: raise it, take fewer problems, or a smaller wave"
            )
