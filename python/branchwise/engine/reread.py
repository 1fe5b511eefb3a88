"""Hidden states and log-probabilities of given solutions: each is fed once, in large batches, not written again.

They are those that `engine/tap.py` keeps while the same tokens are drawn, up to rounding: a solution is one node here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor

from branchwise.engine.engine import StepEngine
from branchwise.engine.runner import Feed, Runner

ROWS = 512  # tokens of a pass, about

LOGIT_ROWS = 64  # whose logits are held at once

Steps = Sequence[Sequence[int]]


class Read(NamedTuple):
    """Of one solution, at every step's end: states [steps, layers, 3, hidden] fp32, the mean, the last, that behind;
    logprobs [steps] fp32, of each step's tokens."""

    states: Tensor
    logprobs: Tensor


class Rereader:
    """Reads solutions on the KV of an engine that does nothing else meanwhile. A context manager: it holds KV.

    layers: as of a `Tap`, in the order in which it keeps them: that of the final norm first
    prompts: that will be read below; what they all begin with is fed once
    """

    def __init__(self, engine: StepEngine, layers: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        self.kv = engine.kv
        columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
        self._common = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
        self._trunk: int | None = None
        config = engine.model.config
        self.layers = sorted(layers, key=lambda layer: (layer != config.n_layers, layer))
        self._hidden = config.hidden_size
        self._first = 0 if config.n_layers in layers else 1
        self._sampler = engine.sampler
        self._runner = Runner(engine.model, self.kv, [layer for layer in sorted(layers) if layer < config.n_layers])

    def __enter__(self) -> Rereader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._trunk is not None:
            self.kv.tree.prune(self._trunk)
            self._trunk = None

    def read(self, prompt: Sequence[int], solutions: Sequence[Steps]) -> list[Read]:
        """What there is of each solution. prompt, and every step: token ids. OutOfMemory: they do not fit the KV."""
        tree = self.kv.tree
        root = self._root()
        try:
            first = self._feed(root, prompt[len(self._common) :])
            return [found for group in _groups(solutions) for found in self._read(root, first, group)]
        finally:
            tree.prune(root)

    def _root(self) -> int:
        """A node to feed the rest of a prompt to."""
        tree = self.kv.tree
        if not self._common:
            return tree.add_root()
        if self._trunk is None:
            self._trunk = tree.add_root()
            self._feed(self._trunk, self._common)
        return tree.fork(self._trunk, 1)[0]

    def _feed(self, node: int, tokens: Sequence[int]) -> Tensor:
        """[1, width]: the states of the last one."""
        for begin in range(0, len(tokens), ROWS):
            (states,) = self._runner.forward_rows([Feed(node, list(tokens[begin : begin + ROWS]))])
        self.kv.tree.seal(node)
        return states[-1:].clone()

    def _read(self, root: int, first: Tensor, solutions: Sequence[Steps]) -> list[Read]:
        leaves = self.kv.tree.fork(root, len(solutions))
        try:
            tokens = [[token for step in steps for token in step] for steps in solutions]
            found = self._runner.forward_rows([Feed(*pair) for pair in zip(leaves, tokens, strict=True)])
            return [
                self._at_ends(torch.cat([first, states]), steps) for states, steps in zip(found, solutions, strict=True)
            ]
        finally:
            for leaf in leaves:
                self.kv.tree.prune(leaf)

    def _at_ends(self, rows: Tensor, steps: Steps) -> Read:
        """rows: [1 + tokens, width], that of the prompt's end first."""
        ends = torch.tensor([len(step) for step in steps]).cumsum(0)
        drawn = torch.tensor([token for step in steps for token in step])
        logprobs = self._logprobs(rows[:-1, : self._hidden].contiguous(), drawn)
        states = rows.view(len(rows), -1, self._hidden)[:, self._first :].float().cpu()
        sums = states.cumsum(0)[ends - 1]
        kept = torch.stack([sums / ends[:, None, None], states[ends - 1], states[ends]], dim=2)
        return Read(kept, torch.stack([part.sum() for part in torch.split(logprobs, [len(step) for step in steps])]))

    def _logprobs(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """[tokens] fp32 on the CPU, of each given the state before it. hidden: [tokens, hidden]"""
        found = []
        for begin in range(0, len(tokens), LOGIT_ROWS):
            logits = self._sampler.logits(hidden[begin : begin + LOGIT_ROWS])
            own = tokens[begin : begin + LOGIT_ROWS, None].to(logits.device)
            found.append((logits.gather(1, own)[:, 0] - logits.logsumexp(1)).cpu())
        return torch.cat(found)


def _groups(solutions: Sequence[Steps]) -> Iterator[list[Steps]]:
    """As many as a pass takes."""
    group: list[Steps] = []
    tokens = 0
    for steps in solutions:
        length = sum(map(len, steps))
        if group and tokens + length > ROWS:
            yield group
            group, tokens = [], 0
        group.append(steps)
        tokens += length
    if group:
        yield group
