"""Which outlook an engine has: a calibration of its models where there is one, else a rule of thumb."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from branchwise.assets import NAMES, asset_path
from branchwise.config import EngineConfig
from branchwise.control.calibration import Calibration, read_calibration
from branchwise.errors import ConfigError
from branchwise.strategies.outlook import Kind, Outlook, RuleOfThumb, Standing
from branchwise.weights import open_checkpoint
from branchwise.weights.identity import identity

CALIBRATION = "calibration.json"  # of the bundled pair


@dataclass(frozen=True, slots=True)
class Measured:
    """The outlook of a calibration; votes of another kind than it was fitted to go by the rule of thumb."""

    calibration: Calibration
    other: RuleOfThumb

    @property
    def judged(self) -> bool:
        """Whether steps have scores."""
        return self.other.judged

    @property
    def billions(self) -> float | None:
        """Of the policy's weights."""
        return self.other.billions

    def right(self, now: Standing) -> float:
        """Probability that the chosen answer is right."""
        return self.calibration.right(now) if self.knows(now) else self.other.right(now)

    def knows(self, now: Standing) -> bool:
        """Whether it was fitted to votes like this."""
        return not now.n or not now.leader or self.calibration.judged == (now.score is not None)

    def gain(self, now: Standing, kind: Kind, n: int) -> float:
        """How much more probable `n` more solutions of a kind are expected to make that."""
        return self.calibration.gain(now, kind, n)

    def kinds(self, now: Standing) -> Sequence[Kind]:
        """Those that the next wave may be of."""
        return self.calibration.kinds(now)


def outlook_of(
    config: EngineConfig, policy: str | Path, prm: str | Path | None, *, judges: int, billions: float
) -> Outlook:
    """What is known of these models. judges: how many, of whatever kind    billions: of the policy's weights

    ConfigError: the calibration of the config is damaged, or is one of other models.
    """
    judged = judges > 0
    other = RuleOfThumb(judged, config.judge_quality, billions)
    if config.calibration is None:
        bundled = judges == 1 and _asset(policy) == "policy-small" and prm is not None and _asset(prm) == "prm"
        return Measured(read_calibration(asset_path(CALIBRATION)), other) if bundled else other
    calibration = read_calibration(Path(config.calibration))
    for what, source, known in (("policy", policy, calibration.policy), ("judge", prm, calibration.judge)):
        given = names_of(source) if source is not None else {"none"}
        if known is not None and known not in given:
            raise ConfigError(
                f"calibration {config.calibration} is one of the {what} {known}, this one is {min(given)}: fit one to"
                " these models with branchwise eval and branchwise calibrate"
            )
    if calibration.judged != judged:
        raise ConfigError(
            f"calibration {config.calibration} was fitted {'with' if calibration.judged else 'without'} a judge, and"
            f" there is {'one' if judged else 'none'} here: fit another"
        )
    return Measured(calibration, other)


def names_of(source: str | Path) -> set[str]:
    """How results files may name a model. CheckpointError as usual."""
    asset = _asset(source)
    return {identity(open_checkpoint(str(source)))} | ({f"bundled {asset}"} if asset else set())


def _asset(source: str | Path) -> str | None:
    """The bundled asset that a path leads to."""
    return next((name for name in NAMES if Path(source) == asset_path(name)), None)
