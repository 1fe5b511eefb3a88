"""How sure the policy was as a judge: steps are scored from the distributions that their tokens were drawn from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from branchwise.confidence import ConfidenceOptions
from branchwise.config import EngineConfig
from branchwise.errors import ConfigError, InputError
from branchwise.scoring.queued import QueuedScorer, QueuedTree
from branchwise.types import Node

NAME = "confidence"


@dataclass(frozen=True, slots=True)
class ConfidenceJudge:
    """Judges a step by how sure the policy was of its tokens, with no other model and nothing computed anew.

    measure  "confidence" or "certainty" of the tokens, see `Confidence`; c is the mean over the step

    The score is c / (1 + c): a number in [0, 1) that ranks as c does, but no calibrated P(good).
    """

    measure: Literal["confidence", "certainty"] = "confidence"

    def __post_init__(self) -> None:
        if self.measure not in ("confidence", "certainty"):
            raise ConfigError(f"judge {NAME}: measure={self.measure!r}: expected 'confidence' or 'certainty'")

    @property
    def name(self) -> str:
        return NAME


def telling(config: EngineConfig, judges: list[Any]) -> EngineConfig:
    """The options with which the policy tells what judges ask for."""
    asked = config.confidence is None and any(isinstance(judge, ConfidenceJudge) for judge in judges)
    return replace(config, confidence_top=ConfidenceOptions().top) if asked else config


class ConfidenceScorer(QueuedScorer[QueuedTree]):
    """A `Judge` that reads what the policy told of each step."""

    def __init__(self, judge: ConfidenceJudge, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.judge = judge

    def open(self, root: Node, question: str, **sizes: Any) -> QueuedTree:
        """Start a tree; its sizes do not matter."""
        return QueuedTree(root, question)

    def check_text(self, index: int, text: str) -> None:
        """InputError: the policy has not written it."""
        raise InputError(
            "judge confidence scores what the policy wrote, while it writes: for scores of given texts take a PRM"
        )

    def poll(self, *, least: int = 1, alone: bool = False) -> list[Node]:
        """Score all that waits."""
        nodes = list(self._take())
        for node in nodes:
            told = node.confidence
            assert told is not None, "the policy was not asked how sure it was"
            values = told.values if self.judge.measure == "confidence" else told.certainties
            mean = math.fsum(values) / len(values)
            node.score = mean / (1 + mean)
        return nodes
