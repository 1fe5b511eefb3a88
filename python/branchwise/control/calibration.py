"""What was measured of a policy and its judge on problems with known answers, as a file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from branchwise.control.logistic import probability
from branchwise.errors import ConfigError
from branchwise.shapes import misfit
from branchwise.strategies.outlook import Kind, Standing, waves_of

FORMAT, HEADER = 1, "branchwise_calibration"
LEAST_SCORE = 1e-3  # scores are told apart from here to 1 minus it
FEATURES = ("1", "logit of the score", "share of the weights", "share of the solutions", "log2 of the solutions")


def features(now: Standing) -> list[float]:
    """What is asked of a standing, see `FEATURES`. Without scores the logit is that of the share of the solutions."""
    agreed = now.leader / max(1, now.n)
    sure = now.score if now.score is not None else (now.leader + 0.5) / (now.n + 1)
    sure = min(1 - LEAST_SCORE, max(LEAST_SCORE, sure))
    return [1.0, math.log(sure / (1 - sure)), now.share, agreed, math.log2(max(1, now.n))]


@dataclass(frozen=True, slots=True)
class Calibration:
    """An outlook that was fitted (`fit_calibration`), and how well it does.

    policy, judge   by content, as results files name them    judged: whether there were scores
    wave            solutions of a wave
    answered        coefficients of P(the chosen answer is right | standing)
    mended, kept    of each kind: those of P(right after one more wave | standing), where the answer is wrong, and where
                    it is right
    first, tokens   of each kind: how often it is right after the first wave; tokens of the policy that a wave takes
    quality         measured on problems that were left out while fitting: see `control.quality`
    trained         folders, problems and votes that it was fitted to
    """

    policy: str
    judge: str | None
    judged: bool
    wave: int
    answered: list[float]
    mended: Mapping[Kind, list[float]]
    kept: Mapping[Kind, list[float]]
    first: Mapping[Kind, float]
    tokens: Mapping[Kind, float]
    quality: Mapping[str, float | None] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)

    def right(self, now: Standing) -> float:
        """P(the chosen answer is right). An answer that nobody states is wrong."""
        if now.n and not now.leader:
            return 0.0
        return probability(self.answered, features(now)) if now.n else 0.0

    def gain(self, now: Standing, kind: Kind, n: int) -> float:
        """How much more probable that will be after `n` solutions of a kind, at most a wave of them."""
        if kind not in self.first:
            return 0.0
        if not now.n:
            return self.first[kind]
        right, known = self.right(now), features(now)
        lost = right * (1 - probability(self.kept[kind], known))
        whole = self.wave * waves_of(kind)
        return max(0.0, (1 - right) * probability(self.mended[kind], known) - lost) * min(1.0, n / whole)

    def kinds(self, now: Standing) -> Sequence[Kind]:
        """Those that were seen."""
        return tuple(self.first)

    def save(self, path: Path) -> None:
        """Write it as JSON. ConfigError: that cannot be."""
        try:
            path.write_text(json.dumps({HEADER: FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}; choose another --out") from error


def read_calibration(path: Path) -> Calibration:
    """The calibration of a file. ConfigError: it cannot be read, or is another kind of file."""
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise ConfigError(f"calibration {path}: {why}; name a file that branchwise calibrate has written") from error
    if not isinstance(made, dict) or made.get(HEADER) != FORMAT:
        raise ConfigError(f"calibration {path}: expected a file that branchwise calibrate has written, format {FORMAT}")
    del made[HEADER]
    wrong = misfit(made, Calibration) or _mismatch(Calibration(**made))
    if wrong:
        raise ConfigError(f"calibration {path} is damaged ({wrong}): fit it again with branchwise calibrate")
    return Calibration(**made)


def _mismatch(made: Calibration) -> str | None:
    """What of a calibration does not fit the rest; None: all of it does."""
    kinds = made.first.keys()
    if not kinds or any(part.keys() != kinds for part in (made.mended, made.kept, made.tokens)):
        return "first, mended, kept and tokens do not know the same kinds of waves"
    if {len(each) for each in (made.answered, *made.mended.values(), *made.kept.values())} != {len(FEATURES)}:
        return f"expected {len(FEATURES)} coefficients everywhere"
    return None if made.wave >= 1 else f"wave is {made.wave}, expected 1 or more"
