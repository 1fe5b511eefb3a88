"""The policy's own hidden states, kept of every step for a value head: what a score for free is made of.

Every token is drawn from a state that has been computed anyway. Of a path these states are summed, in the order of its
tokens and each once, and the last one is kept. Both belong to the node, not to its KV: forks go on from the sum of
their parent, and KV that is dropped and fed again changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from branchwise.engine.policy_tree import NodeState, PolicyTree
from branchwise.engine.rows import Growing
from branchwise.models.decoder import Decoder


@dataclass(frozen=True, slots=True)
class Tap:
    """Which states are kept, none by default.

    layers  the residual stream after so many layers, as what follows reads it: normed; all of them: the final norm
    after   the last state is that behind a step's last token, which is fed for it; else the one it was drawn from
    """

    layers: tuple[int, ...] = ()
    after: bool = False


NO_TAP = Tap()


class StatePool:
    """Sums and last states of the rows of one engine.

    inner: layers that a pass has to keep for it    columns: of the states of a pass, [rows, width], those that are
    pooled: the final norm's come first, then by layer
    """

    def __init__(self, model: Decoder, tap: Tap) -> None:
        hidden, last = model.config.hidden_size, model.config.n_layers
        self.after = tap.after
        self.hidden = hidden
        self.inner = tuple(sorted(set(tap.layers) - {last}))
        self.width = (1 + len(self.inner)) * hidden
        self.columns = range(0 if last in tap.layers else hidden, self.width)
        self._nothing = model.backend.tensor(torch.zeros(len(self.columns)))

    def drawn_from(self, states: Tensor) -> Tensor:
        """What the sampler reads: [rows, hidden]. states: [rows, width]"""
        return states[:, : self.hidden].contiguous()

    def sum_of(self, state: NodeState) -> Tensor | None:
        """The sum on the path of a growing step so far: [pooled]; None where nothing is pooled."""
        if not self.columns:
            return None
        before = state if state.parent is None or state.sum is not None else state.parent
        return self._nothing if before.sum is None else before.sum

    def add(self, rows: Sequence[Growing], states: Tensor) -> None:
        """Each row has drawn a token from its state. states: [rows, width]"""
        places = [place for place, item in enumerate(rows) if item.tree.settings.states] if self.columns else []
        if not places:
            return
        wanted = self._wanted(states if len(places) == len(rows) else states[places])
        before = [self.sum_of(rows[place].state) for place in places]
        sums = torch.stack(before) + wanted  # type: ignore[arg-type]  # something is pooled: there are sums
        for place, sum_, last in zip(places, sums.unbind(), wanted.unbind(), strict=True):
            rows[place].state.sum, rows[place].state.last = sum_, last

    def keep(self, tree: PolicyTree, state: NodeState) -> None:
        """A step is done: what a head reads of it is its node's own now, unless nobody will."""
        if not tree.settings.states or state.sum is None or state.last is None:
            return
        state.sum = state.sum.clone()  # a view would keep the whole batch alive
        drawn = sum(len(step.tokens) - step.given for step in state.node.path)
        state.node.states = torch.cat([state.sum / drawn, state.last])
        state.last = None

    def waits(self, state: NodeState) -> bool:
        """Whether a step that is done has to be fed to its end before it is reported."""
        return self.after and state.node.states is not None and state.missing > 0

    def look_behind(self, state: NodeState) -> None:
        """The last state is that behind the last token, which has been fed."""
        if self.after and state.node.states is not None and state.hidden is not None:
            state.node.states[len(self.columns) :] = self._wanted(state.hidden[None])[0]

    def _wanted(self, states: Tensor) -> Tensor:
        return states[:, self.columns.start : self.columns.stop].float()
