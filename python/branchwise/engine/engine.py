"""The step engine: `expand` queues children, `poll` decodes one iteration for all trees at once.

    openings ──feed prompt or last token──> hidden ──draw first tokens──> growing ──one token an iteration──> finished

Rows are refilled continuously: a branch that ends its step leaves, a waiting one takes its row in the same call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from branchwise._C import lineage_child
from branchwise.backend.base import BurstBackend
from branchwise.engine.branch import Branch, StepLimits, Tree
from branchwise.engine.decode_loop import Burst, DecodeLoop, LoopRow
from branchwise.engine.kv import KvCache
from branchwise.engine.runner import Feed, Runner
from branchwise.engine.sampler import Draw, Sampler
from branchwise.errors import ConfigError, InputError, OutOfMemory, StaleNodeError
from branchwise.models.decoder import Decoder
from branchwise.text.steps import StepDetector
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Finish, Node, Sampling


@dataclass(slots=True)
class Opening:
    """A wish for `n` children of a node whose last hidden state may still have to be computed."""

    tree: Tree
    branch: Branch
    n: int


@dataclass(slots=True)
class Growing:
    """A step being written. `branch.pending` holds the token drawn last."""

    tree: Tree
    branch: Branch


class StepEngine:
    """Batched step-level decoding of one policy on one KV cache."""

    def __init__(
        self, model: Decoder, tokenizer: Tokenizer, kv: KvCache, *, max_rows: int = 256, prefill_rows: int = 512
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.kv = kv
        self.runner = Runner(model, kv)
        self.sampler = Sampler(model)
        self.max_rows = max_rows
        self.prefill_rows = prefill_rows
        self.context = min(model.config.max_positions, len(next(iter(model.rope.values()))[0]))
        self.flops_per_token = 2.0 * model.config.matmul_parameters
        self._no_rows = model.backend.tensor(torch.empty(0, model.config.hidden_size, dtype=model.dtype))
        self._openings: deque[Opening] = deque()
        self._growing: deque[Growing] = deque()
        self._detectors: dict[str, StepDetector] = {}
        backend = model.backend
        self.loop = DecodeLoop(model, self.sampler, kv, cast(BurstBackend, backend)) if backend.burst > 1 else None
        self._flying: tuple[list[Growing], Burst] | None = None
        self._landed: list[tuple[Tree, Node]] = []

    # --- trees -------------------------------------------------------------------------------------------------

    def open(
        self, prompt: Sequence[int], *, lineage: int, branches: int, max_steps: int, limits: StepLimits,
        sampling: Sampling, seed: int, delimiter: str,
    ) -> Tree | None:  # fmt: skip
        """Start a tree under a prompt, or return `None` while its worst case does not fit beside what runs.

        prompt: token ids    lineage: 64-bit key of the root's random numbers    branches: alive at most
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
        blocks = self.kv.worst_case_blocks(len(prompt), branches, limits.max_tokens, max_steps)
        if not self.kv.can_reserve(blocks):
            return None
        self.kv.reserve(blocks)
        root = Node(id=0, parent=None, index=0, depth=0, lineage=lineage)
        tree = Tree(root, sampling, seed, self.detector(delimiter), limits, len(prompt), blocks, width=branches)
        tree.branches[root] = Branch(root, None, self.kv.tree.add_root(), len(prompt), list(prompt))
        root.cost.prefill_tokens = tree.cost.prefill_tokens = len(prompt)
        return tree

    def expand(self, tree: Tree, node: Node, n: int) -> None:
        """Queue `n` more children of a node. ConfigError: n < 1. StaleNodeError: its KV is gone, or it has ended."""
        branch = tree.branches.get(node)
        if n < 1:
            raise ConfigError(f"expand with n={n}: expected at least 1 child")
        if tree.closed or branch is None or branch.released:
            raise StaleNodeError(f"node {node.id} was pruned or its tree closed: it can no longer be expanded")
        if node.is_final or (node.parent is not None and node.finish is None):
            raise StaleNodeError(f"node {node.id} has finish {node.finish!r}: only a step that stopped can be expanded")
        self._openings.append(Opening(tree, branch, n))

    def prune(self, tree: Tree, node: Node) -> None:
        """Drop the owner's hold on a node; its KV is freed when no child needs it. A growing step is abandoned."""
        branch = tree.branches.get(node)
        if branch is None or branch.released:
            return
        self._land()
        branch.released = True
        self._openings = deque(item for item in self._openings if item.branch is not branch)
        self._growing = deque(item for item in self._growing if item.branch is not branch)
        self.kv.tree.prune(branch.handle)
        self._let_go(tree, branch)

    def cancel(self, tree: Tree) -> None:
        """Forget what is queued for a tree but has not begun."""
        self._openings = deque(item for item in self._openings if item.tree is not tree)

    def close(self, tree: Tree) -> None:
        """Free everything a tree holds. Closing twice is allowed."""
        if tree.closed:
            return
        for node in list(tree.branches):
            self.prune(tree, node)
        self.kv.release(tree.reserved_blocks)
        tree.closed = True

    def _let_go(self, tree: Tree, branch: Branch) -> None:
        """One holder less, upwards while nothing needs a node; mirrors what the KV tree frees."""
        current: Branch | None = branch
        while current is not None:
            current.holders -= 1
            if current.holders:
                return
            tree.kv_tokens -= current.end - (current.parent.end if current.parent else 0) - len(current.pending)
            current.hidden = None
            del tree.branches[current.node]
            current = current.parent

    # --- the step loop -----------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """True when nothing is queued or growing."""
        return not (self._openings or self._growing or self._flying or self._landed)

    def begin(self) -> None:
        """Where the device can decode alone, queue a burst without waiting; the next `poll` collects it."""
        if self.loop is None or self._flying or self._openings or not self._growing:
            return
        with self.model.backend.stream("policy"):
            self._flying = self._take_off(self.loop)

    def _take_off(self, loop: DecodeLoop) -> tuple[list[Growing], Burst]:
        detector = self._growing[0].tree.detector
        growing = [item for item in self._growing if item.tree.detector is detector][: self.max_rows]
        burst = loop.start([self._loop_row(item) for item in growing], detector, self.tokenizer.eos_ids)
        taken = set(map(id, growing))
        self._growing = deque(item for item in self._growing if id(item) not in taken)
        return growing, burst

    def poll(self) -> list[tuple[Tree, Node]]:
        """Run one decode iteration, or collect a burst of them, and return the steps that finished."""
        self.begin()
        self._land()
        if self._landed or (self.loop is not None and not self._openings):
            landed, self._landed = self._landed, []
            return landed
        with self.model.backend.stream("policy"):
            return self._iterate()

    def _iterate(self) -> list[tuple[Tree, Node]]:
        """One decode iteration under the host's eyes: openings are fed, and every row draws a token."""
        growing, openings = self._next_batch()
        fed = list({opening.branch: opening for opening in openings if opening.branch.pending}.values())
        feeds = [Feed(item.branch.handle, item.branch.pending) for item in growing] + self._opening_feeds(fed)
        try:
            hidden = self.runner.forward(feeds) if feeds else self._no_rows
        except OutOfMemory:  # nothing was appended: put everything back, so that the caller can free and go on
            self._growing.extendleft(reversed(growing))
            self._openings.extendleft(reversed(openings))
            raise
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
        self._growing.extendleft(item for item in reversed(active) if item.branch.node.finish is None)
        return [(item.tree, item.branch.node) for item in active if item.branch.node.finish is not None]

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
        self._growing.extendleft(item for item in reversed(growing) if item.branch.node.finish is None)
        self._landed += [(item.tree, item.branch.node) for item in growing if item.branch.node.finish is not None]

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

    def _next_batch(self) -> tuple[list[Growing], list[Opening]]:
        """The rows of this iteration: growing steps first come, first served; openings while rows are free."""
        growing = [self._growing.popleft() for _ in range(min(self.max_rows, len(self._growing)))]
        rows, prefill = len(growing), 0
        openings: list[Opening] = []
        while self._openings and rows < self.max_rows and prefill < self.prefill_rows:
            opening = self._openings.popleft()
            openings.append(opening)
            prefill += len(opening.branch.pending)
            rows += opening.n
        return growing, openings

    def _opening_feeds(self, openings: list[Opening]) -> list[Feed]:
        """Up to `prefill_rows` pending tokens of the openings; a long prompt takes several iterations."""
        feeds, room = [], self.prefill_rows
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
        self._openings.extendleft(reversed(waiting))
        return [
            Growing(opening.tree, self._child(opening.tree, opening.branch, handle))
            for opening in openings
            if opening.branch.hidden is not None
            for handle in self.kv.tree.fork(opening.branch.handle, opening.n)
        ]

    def _child(self, tree: Tree, parent: Branch, handle: int) -> Branch:
        index = len(parent.node.children)
        lineage = lineage_child(parent.node.lineage, index)
        node = Node(
            id=len(tree.branches), parent=parent.node, index=index, depth=parent.node.depth + 1, lineage=lineage
        )
        parent.node.children.append(node)
        parent.holders += 1
        branch = Branch(node, parent, handle, parent.end, [], tree.detector.start)
        tree.branches[node] = branch
        return branch

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
        for tree, rows in by_tree.items():
            cost = tree.cost
            cost.occupancy += (rows / tree.width - cost.occupancy) / (cost.iterations + 1)
            cost.iterations += 1
            cost.generated_tokens += rows
            cost.kv_bytes_read += share * rows

    def detector(self, delimiter: str) -> StepDetector:
        """The step detector of a delimiter; its automaton is shared by all trees."""
        if delimiter not in self._detectors:
            self._detectors[delimiter] = StepDetector(self.tokenizer, delimiter)
        return self._detectors[delimiter]
