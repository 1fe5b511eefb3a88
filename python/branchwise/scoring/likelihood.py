"""Log-likelihoods of branches under one model, scored like steps of a PRM: on a KV tree, each token once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from branchwise.engine.kv import KvCache
from branchwise.engine.logprobs import token_logprobs
from branchwise.engine.memory import LOWER
from branchwise.engine.runner import Feed
from branchwise.engine.sampler import Sampler
from branchwise.scoring.prm import Prm
from branchwise.scoring.scorer import PrmTree, Scorer, Twin
from branchwise.types import Node


@dataclass(slots=True)
class Read:
    """What is known of a prompt or step. last: [hidden], after its last token    logprobs: of its tokens"""

    last: Tensor
    logprobs: list[float] = field(default_factory=list)


class LikelihoodScorer(Scorer):
    """A `Scorer` whose score of a step is the log-probability of all steps up to it, given the prompt.

    prm: with an lm_head and no reward head    No prefixes are shared with other trees: what is kept of them has no
    likelihoods.
    """

    def __init__(self, prm: Prm, kv: KvCache, *, batch_rows: int = 512) -> None:
        super().__init__(prm, kv, batch_rows=batch_rows)
        self.sampler = Sampler(prm.model)

    def open(self, root: Node, question: str, **sizes: Any) -> PrmTree:
        """As of any PRM."""
        return super().open(root, question, **{**sizes, "reuse": False})

    def _forward(self, batch: dict[Twin, int]) -> list[float]:
        backend = self.prm.model.backend
        feeds = [Feed(twin.open(self.kv), twin.upcoming(count)) for twin, count in batch.items()]
        with backend.stream("prm"):
            hidden = self.runner.forward_rows(feeds)
            with self.runner.or_take_back(feeds):
                pairs = list(zip(batch, hidden, strict=True))
                read = backend.with_memory(lambda: [self._read(twin, states) for twin, states in pairs], LOWER)
        for twin, known in zip(batch, read, strict=True):
            twin.memo = known
        return [_likelihood(twin) for twin in batch]

    def _read(self, twin: Twin, states: Tensor) -> Read:
        """What is known after some more tokens. states: [tokens, hidden], after each of them."""
        last, before = states[-1].clone(), twin.memo if twin.fed else None
        if twin.parent is None or twin.score is not None:
            return Read(last)
        previous = twin.parent.memo if before is None else before
        rows = torch.cat([previous.last[None], states[:-1]])
        found = token_logprobs(self.sampler, rows, twin.upcoming(len(states)), most=0)
        known = [] if before is None else before.logprobs
        return Read(last, [*known, *(each.logprob for each in found)])


def _likelihood(twin: Twin) -> float:
    """Of all steps up to this one, as far as it was read; the sum depends on no cut between passes."""
    above = twin.parent
    if above is None:
        return 0.0
    before = 0.0 if above.parent is None else above.score
    assert before is not None
    return before + math.fsum(twin.memo.logprobs)
