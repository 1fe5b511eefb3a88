"""The step engine: `expand` queues children, `poll` decodes one iteration for all trees at once.

    openings ──feed prompt or last token──> hidden ──draw first tokens──> growing ──one token an iteration──> finished

Rows are refilled continuously: a branch that ends its step leaves, a waiting one takes its row in the same call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from branchwise.backend.base import BurstBackend
from branchwise.engine.branch import Branch, StepLimits, Tree
from branchwise.engine.decode_loop import Burst, DecodeLoop, LoopRow
from branchwise.engine.forest import Forest
from branchwise.engine.kv import KvCache
from branchwise.engine.rows import Growing, Opening, RowQueue
from branchwise.engine.runner import Feed, Runner
from branchwise.engine.sampler import Draw, Sampler
from branchwise.errors import InputError, OutOfMemory
from branchwise.models.decoder import Decoder
from branchwise.text.steps import StepDetector
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Finish, Node, Sampling


class StepEngine:
    """Batched step-level decoding of one policy on one KV cache."""

    def __init__(
        self, model: Decoder, tokenizer: Tokenizer, kv: KvCache, *, max_rows: int = 256, prefill_rows: int = 512,
        speculate: bool = False,
    ) -> None:  # fmt: skip
        self.model = model
        self.tokenizer = tokenizer
        self.kv = kv
        self.runner = Runner(model, kv)
        self.sampler = Sampler(model)
        self.rows = RowQueue(max_rows, prefill_rows)
        self.forest = Forest(kv, self.rows)
        self.speculate = speculate
        self.context = min(model.config.max_positions, len(next(iter(model.rope.values()))[0]))
        self.flops_per_token = 2.0 * model.config.matmul_parameters
        self._no_rows = model.backend.tensor(torch.empty(0, model.config.hidden_size, dtype=model.dtype))
        self._detectors: dict[str, StepDetector] = {}
        backend = model.backend
        self.loop = DecodeLoop(model, self.sampler, kv, cast(BurstBackend, backend)) if backend.burst > 1 else None
        self._flying: tuple[list[Growing], Burst] | None = None

    # --- trees -------------------------------------------------------------------------------------------------

    def open(
        self, prompt: Sequence[int], *, lineage: int, branches: int, max_steps: int, limits: StepLimits,
        sampling: Sampling, seed: int, delimiter: str, kept: int | None = None,
    ) -> Tree | None:  # fmt: skip
        """Start a tree under a prompt, or return `None` while its worst case does not fit beside what runs.

        prompt: token ids    lineage: 64-bit key of the root's random numbers    branches: alive at most
        kept: branches that go on when a level is over, if those are fewer (see `Demand`)
        InputError: empty prompt, or longer than the context. OutOfMemory: it can never fit.
        """
        room = self.context - len(prompt)
        if not prompt:
            raise InputError("the prompt is empty: expected at least one token")
        if room < 2:
            raise InputError(
                f"the prompt has {len(prompt)} tokens, the model's context is {self.context}: shorten the prompt"
            )
        limits = StepLimits(min(limits.max_tokens, room), min(limits.max_step_tokens, room))
        return self.forest.open(
            prompt, lineage=lineage, branches=branches, kept=branches if kept is None else kept, max_steps=max_steps,
            limits=limits, sampling=sampling, seed=seed, detector=self.detector(delimiter), speculates=self.speculate,
        )  # fmt: skip

    def expand(self, tree: Tree, node: Node, n: int) -> None:
        """Queue `n` more children of a node; the first one may have been written ahead.

        ConfigError: n < 1. StaleNodeError: its KV is gone, or it has ended.
        """
        self.forest.expand(tree, node, n)

    def prune(self, tree: Tree, node: Node) -> None:
        """Drop the owner's hold on a node; its KV is freed when no child needs it. A growing step is abandoned."""
        self._land()
        self.forest.prune(tree, node)

    def cancel(self, tree: Tree) -> None:
        """Forget what is queued for a tree but has not begun."""
        self.rows.cancel(tree)

    def close(self, tree: Tree) -> None:
        """Free everything a tree holds. Closing twice is allowed."""
        self._land()
        self.forest.close(tree)

    # --- the step loop -----------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """True when nothing that was asked for is queued or growing."""
        return self.rows.idle and not (self._flying or self.forest.finished)

    @property
    def overlaps(self) -> bool:
        """Whether steps are decoded while other work goes on: on a device of its own, after `begin`."""
        return self.loop is not None

    def begin(self) -> None:
        """Where the device can decode alone, queue a burst without waiting; the next `poll` collects it."""
        if self.loop is None or self._flying or self.rows.opening or not self.rows.growing:
            return
        with self.model.backend.stream("policy"):
            self._flying = self._take_off(self.loop)

    def _take_off(self, loop: DecodeLoop) -> tuple[list[Growing], Burst]:
        growing = self.rows.next_growing()
        detector = growing[0].tree.detector
        rows = [item for item in growing if item.tree.detector is detector]
        self.rows.put_back([item for item in growing if item.tree.detector is not detector])
        try:
            return rows, loop.start([self._loop_row(item) for item in rows], detector, self.tokenizer.eos_ids)
        except OutOfMemory:
            self.rows.put_back(rows)
            if not self.forest.drop_ahead():
                raise
            return self._take_off(loop)

    def poll(self) -> list[tuple[Tree, Node]]:
        """Run one decode iteration, or collect a burst of them, and return the steps that finished."""
        self.begin()
        self._land()
        if self.forest.finished or (self.loop is not None and not self.rows.opening):
            finished, self.forest.finished = self.forest.finished, []
            return finished
        with self.model.backend.stream("policy"):
            return self._iterate()

    def _iterate(self) -> list[tuple[Tree, Node]]:
        """One decode iteration under the host's eyes: openings are fed, and every row draws a token."""
        growing, openings = self.rows.next_batch()
        fed = list({opening.branch: opening for opening in openings if opening.branch.pending}.values())
        feeds = [Feed(item.branch.handle, item.branch.pending) for item in growing] + self._opening_feeds(fed)
        try:
            hidden = self.runner.forward(feeds) if feeds else self._no_rows
        except OutOfMemory:  # nothing was appended: put everything back, so that the caller can free and go on
            self.rows.put_back(growing, openings)
            if not self.forest.drop_ahead():
                raise
            return self._iterate()
        self._commit(growing, fed, feeds)
        self._keep_hidden(fed, hidden[len(growing) :])
        children = self._fork_ready(openings)
        active = growing + children
        if not active:
            return []
        rows = torch.cat([hidden[: len(growing)], *(self._parent_state(item) for item in children)])
        tokens, logprobs = self.sampler.draw(rows, [self._draw(item) for item in active])
        self._account(active, self.runner.last_bytes_read if feeds else 0)
        for item, token, logprob in zip(active, tokens, logprobs, strict=True):
            self._accept(item, token, logprob)
        return self._settle(active)

    def _settle(self, rows: list[Growing]) -> list[tuple[Tree, Node]]:
        """Let rows go on where their step does; returns the finished steps that were asked for."""
        self.rows.put_back([item for item in rows if item.branch.node.finish is None])
        done = [item for item in rows if item.branch.node.finish is not None]
        for item in done:
            if item.tree.speculates and item.tree.may_go_on(item.branch.node):
                self.rows.ahead.openings.append(Opening(item.tree, item.branch, 1, ahead=True))
        return [(item.tree, item.branch.node) for item in done if not item.branch.ahead]

    def _land(self) -> None:
        """Take in the burst that is under way, if any."""
        if self._flying is None or self.loop is None:
            return
        (growing, burst), self._flying = self._flying, None
        drawn = self.loop.finish(burst)
        for iteration, slots in enumerate(burst.slots_read):
            active = [item for item, (tokens, _) in zip(growing, drawn, strict=True) if len(tokens) > iteration]
            if not active:
                break
            self.runner.count(len(active), slots, burst.slots_unshared, burst.loop.path)
            self._account(active, self.runner.last_bytes_read)
        for item, (tokens, logprobs) in zip(growing, drawn, strict=True):
            item.tree.hold(len(tokens))
            for token, logprob in zip(tokens, logprobs, strict=True):
                self._accept(item, token, logprob)
        self.forest.finished += self._settle(growing)

    def _loop_row(self, item: Growing) -> LoopRow:
        tree, branch = item.tree, item.branch
        return LoopRow(
            handle=branch.handle,
            token=branch.pending[0],
            draw=self._draw(item),
            automaton=branch.step,
            generated=len(branch.node.tokens),
            max_step=tree.limits.max_step_tokens,
            last_position=tree.prompt_tokens + tree.limits.max_tokens - 1,
        )

    def _opening_feeds(self, openings: list[Opening]) -> list[Feed]:
        """Up to `prefill_rows` pending tokens of the openings; a long prompt takes several iterations."""
        feeds, room = [], self.rows.prefill_rows
        for opening in openings:
            feeds.append(Feed(opening.branch.handle, opening.branch.pending[: max(1, room)]))
            room -= len(feeds[-1].tokens)
        return feeds

    def _commit(self, growing: list[Growing], openings: list[Opening], feeds: list[Feed]) -> None:
        """Tokens that were fed are in the KV now and pending no more."""
        items: list[Growing | Opening] = [*growing, *openings]
        for item, feed in zip(items, feeds, strict=True):
            item.branch.pending = item.branch.pending[len(feed.tokens) :]
            item.tree.hold(len(feed.tokens))

    @staticmethod
    def _parent_state(item: Growing) -> Tensor:
        """[1, hidden] after the last token before this step: what its first token is drawn from."""
        assert item.branch.parent is not None
        assert item.branch.parent.hidden is not None
        return item.branch.parent.hidden[None]

    def _keep_hidden(self, openings: list[Opening], hidden: Tensor) -> None:
        """Remember the hidden state of every node whose last token was just fed, and close the node's KV."""
        for opening, state in zip(openings, hidden, strict=True):
            if not opening.branch.pending:
                opening.branch.hidden = state.clone()  # a view would keep the whole batch alive
                self.kv.tree.seal(opening.branch.handle)

    def _fork_ready(self, openings: list[Opening]) -> list[Growing]:
        """Children of every opening whose hidden state is known; the others stay first in the queue."""
        waiting = [opening for opening in openings if opening.branch.hidden is None]
        self.rows.put_back([], waiting)
        ready = [opening for opening in openings if opening.branch.hidden is not None]
        return [child for opening in ready for child in self.forest.begin_children(opening)]

    def _draw(self, item: Growing) -> Draw:
        return Draw(item.tree.seed, item.branch.node.lineage, item.branch.end, item.tree.sampling)

    def _accept(self, item: Growing, token: int, logprob: float) -> None:
        """Add a drawn token to its step, and finish the step if that was its last."""
        tree, branch = item.tree, item.branch
        node = branch.node
        node.tokens.append(token)
        node.logprob += logprob
        branch.pending = [token]
        branch.end += 1
        branch.step, stopped = tree.detector.advance(branch.step, token)
        node.finish = self._finish(tree, branch, token, stopped)
        if node.finish is not None:
            node.text = self.tokenizer.decode(node.tokens)
            node.cost.generated_tokens = len(node.tokens)

    def _finish(self, tree: Tree, branch: Branch, token: int, stopped: bool) -> Finish | None:
        if token in self.tokenizer.eos_ids:
            return "eos"
        if branch.end - tree.prompt_tokens >= tree.limits.max_tokens:
            return "length"
        if stopped:
            return "stop"
        return "length" if len(branch.node.tokens) >= tree.limits.max_step_tokens else None

    def _account(self, active: list[Growing], bytes_read: int) -> None:
        """Share the cost of this iteration among the rows that took part."""
        share = bytes_read // len(active)
        by_tree: dict[Tree, int] = {}
        for item in active:
            by_tree[item.tree] = by_tree.get(item.tree, 0) + 1
            item.branch.node.cost.kv_bytes_read += share
            item.tree.cost.speculated_tokens += item.branch.ahead
            item.tree.cost.generated_tokens += not item.branch.ahead
        for tree, rows in by_tree.items():
            tree.count_iteration(rows, share * rows)

    def detector(self, delimiter: str) -> StepDetector:
        """The step detector of a delimiter; its automaton is shared by all trees."""
        if delimiter not in self._detectors:
            self._detectors[delimiter] = StepDetector(self.tokenizer, delimiter)
        return self._detectors[delimiter]
