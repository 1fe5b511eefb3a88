"""From what users name as judges to the one judge of a pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from branchwise.engine.engine import StepEngine
from branchwise.errors import ConfigError
from branchwise.pair.log_ratio import LogRatio
from branchwise.pair.protocol import Judge
from branchwise.pair.several import RULES, SeveralJudges
from branchwise.scoring.confidence import NAME as CONFIDENCE
from branchwise.scoring.confidence import ConfidenceJudge, ConfidenceScorer
from branchwise.scoring.function import FunctionScorer, PythonJudge
from branchwise.scoring.generating import GeneratingJudge, GeneratingScorer
from branchwise.scoring.implicit import ImplicitJudge
from branchwise.scoring.scorer import Scorer
from branchwise.scoring.value_head import SUFFIX, HeadScorer, ValueHead
from branchwise.strategies.options import nearest

OwnJudge: TypeAlias = PythonJudge | GeneratingJudge | ImplicitJudge | ConfidenceJudge | ValueHead
Parts: TypeAlias = Sequence[Any]
"""What a judge that is no PRM runs: the `StepEngine` of one that writes, the two `Scorer`s of an implicit PRM."""


def read_judges(judge: Any, prm: str | Path | None) -> tuple[str | Path | None, list[OwnJudge]]:
    """The PRM, and the other judges, of `judge=` and `prm=`: one of them or a list.

    A text or a path is a PRM, but for "confidence" (how sure the policy itself was), and a value head where it ends in
    .safetensors.
    ConfigError: something that cannot judge, or more than one PRM or value head. CheckpointError: a head that is none.
    """
    given = [] if judge is None else list(judge) if isinstance(judge, list | tuple) else [judge]
    given = [ConfidenceJudge() if each == CONFIDENCE else each for each in (given if prm is None else [prm, *given])]
    prms = [each for each in given if isinstance(each, str | Path) and not is_head(each)]
    if len(prms) > 1:
        raise ConfigError(f"{len(prms)} PRMs were named, {', '.join(map(str, prms))}: expected one")
    own = [own_judge(each) for each in given if not isinstance(each, str | Path) or is_head(each)]
    heads = [each.source for each in own if isinstance(each, ValueHead)]
    if len(heads) > 1:
        raise ConfigError(f"{len(heads)} value heads were named, {', '.join(heads)}: expected one")
    return (prms[0] if prms else None), own


def is_head(name: str | Path) -> bool:
    """Whether a judge that is named is a value head."""
    return Path(name).suffix == SUFFIX


def own_judge(given: Any) -> OwnJudge:
    """A judge that is no PRM: the given one, a value head by its path, or a function as one.

    ConfigError: it cannot judge. CheckpointError: no value head is there.
    """
    if isinstance(given, str | Path) and is_head(given):
        return ValueHead.load(given)
    return given if isinstance(given, OwnJudge) else PythonJudge(given)


def check_rule(judges: Sequence[object], rule: str | None) -> None:
    """Raise ConfigError for several judges without a rule, and for a rule that is not known or has no use."""
    known = ", ".join(RULES)
    if rule is not None and rule not in RULES:
        raise ConfigError(f"judge_rule={rule!r}: expected one of {known}{nearest(rule, RULES)}")
    if len(judges) > 1 and rule is None:
        raise ConfigError(
            f"{len(judges)} judges without a rule to combine their scores: say judge_rule=, one of {known}"
        )
    if len(judges) < 2 and rule is not None:
        raise ConfigError(f"judge_rule={rule!r} combines several judges, there is {len(judges)}: leave it out")


def make_judge(
    prm: Scorer | None, own: Sequence[OwnJudge], parts: Sequence[Parts], rule: str | None, policy: StepEngine
) -> Judge | None:
    """The judge of a pair. parts: of each that is no PRM"""
    judges: dict[str, Judge] = {} if prm is None else {"prm": prm}
    for each, ready in zip(own, parts, strict=True):
        judges[_free_name(each.name, judges)] = _scorer(each, ready, policy)
    if len(judges) > 1:
        assert rule is not None
        return SeveralJudges(judges, RULES[rule])
    return next(iter(judges.values()), None)


def _scorer(judge: OwnJudge, parts: Parts, policy: StepEngine) -> Judge:
    if isinstance(judge, PythonJudge):
        return FunctionScorer(judge, policy.tokenizer)
    if isinstance(judge, ConfidenceJudge):
        return ConfidenceScorer(judge, policy.tokenizer)
    if isinstance(judge, ValueHead):
        return HeadScorer(judge, policy.model.backend, policy.tokenizer)
    if isinstance(judge, GeneratingJudge):
        (engine,) = parts
        return GeneratingScorer(engine, judge)
    model, reference = parts
    return LogRatio(model, reference, judge)


def _free_name(name: str, taken: dict[str, Judge]) -> str:
    place = 2
    free = name
    while free in taken:
        free, place = f"{name}-{place}", place + 1
    return free
