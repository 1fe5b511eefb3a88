"""The step engine: `expand` queues children, `poll` decodes one iteration for all trees at once.

    openings ──feed prompt or last token──> hidden ──draw first tokens──> growing ──one token an iteration──> finished

Rows are refilled continuously: a branch that ends its step leaves, a waiting one takes its row in the same call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from branchwise.backend.base import BurstBackend
from branchwise.engine.decode_loop import Burst, DecodeLoop, LoopRow
from branchwise.engine.feeding import Feeding, paths_to_feed
from branchwise.engine.forest import Forest
from branchwise.engine.kv import KvCache, KvDemand
from branchwise.engine.logprobs import add_prompt_logprobs, add_step_logprobs
from branchwise.engine.memory import LOWER
from branchwise.engine.policy_tree import NodeState, PolicyTree
from branchwise.engine.prompt_check import caps_beside
from branchwise.engine.rows import Growing, Opening, RowLoad, RowQueue, account
from branchwise.engine.runner import Feed, Runner
from branchwise.engine.sampler import Draw, DrawnToken, Sampler
from branchwise.engine.tap import NO_TAP, StatePool, Tap
from branchwise.errors import OutOfMemory
from branchwise.models.decoder import Decoder
from branchwise.text.automaton import Verdict
from branchwise.text.steps import NOTHING_ENDS, StepDetector, StepDetectors
from branchwise.text.tokenizer import Tokenizer
from branchwise.types import Cut, FinishReason, Node, Settings, StepOptions


class StepEngine:
    """Batched step-level decoding of one policy on one KV cache."""

    def __init__(
        self, model: Decoder, tokenizer: Tokenizer, kv: KvCache, *, max_rows: int = 256, prefill_rows: int = 512,
        speculate: bool = False, source: str = "the policy", tap: Tap = NO_TAP,
    ) -> None:  # fmt: skip
        self.model = model
        self.source = source
        self.tokenizer = tokenizer
        self.kv = kv
        self.pool = StatePool(model, tap)
        self.runner = Runner(model, kv, self.pool.inner)
        self.sampler = Sampler(model)
        self.rows = RowQueue(max_rows, prefill_rows)
        self.detectors = StepDetectors(tokenizer)
        self.forest = Forest(kv, self.rows, self.detectors)
        self.speculate = speculate
        self.context = model.config.max_positions
        self.flops_per_token = 2.0 * model.config.matmul_parameters
        self._no_rows = model.backend.tensor(torch.empty(0, self.pool.width, dtype=model.dtype))
        made = partial(DecodeLoop, model, self.sampler, kv, cast(BurstBackend, model.backend))
        self.loop = made(self.pool.inner, self.pool.columns) if model.backend.burst > 1 else None
        self._flying: tuple[list[Growing], Burst] | None = None
        self._flown: StepDetector | None = None  # what the last burst looked for

    # --- trees -------------------------------------------------------------------------------------------------

    def open(
        self, prompt: Sequence[int], *, lineage: int, branches: int, paths: int, steps: int | None, settings: Settings
    ) -> PolicyTree:
        """Start a tree under a prompt; it takes no memory before something is asked of it.

        prompt: token ids    lineage: 64-bit key of the root's random numbers
        branches: alive at most    paths: that go on when a level is over    steps: of a path (see `KvDemand`)
        InputError: empty prompt, or longer than the context. OutOfMemory: its first steps alone never fit.
        """
        settings = self._caps(prompt, settings)
        demand = KvDemand(len(prompt), branches, paths, settings.max_tokens, settings.max_step_tokens, steps)
        speculates = self.speculate and settings.speculate
        return self.forest.open(prompt, lineage=lineage, demand=demand, settings=settings, speculates=speculates)

    def plant(self, tree: PolicyTree, node: Node, prompt: Sequence[int], settings: Settings) -> Node:
        """A further prompt in a tree: a child of `node` that can be expanded, and that reads nothing of what is above.

        settings: `max_tokens` and `limit` of what grows from it    Errors as of `open` and `expand`.
        """
        settings = self._caps(prompt, settings)
        self._land()
        return self.forest.plant(tree, node, prompt, settings)

    def _caps(self, prompt: Sequence[int], settings: Settings) -> Settings:
        words = self.model.config.vocab_size
        return caps_beside(prompt, settings, context=self.context, words=words, source=self.source)

    def expand(self, tree: PolicyTree, node: Node, n: int, options: StepOptions) -> int:
        """Queue `n` more children of a node and return the index of the first, which may have been written ahead.

        ConfigError: n < 1. StaleNodeError: its KV is gone, or it has ended.
        """
        if self.forest.frees(tree, node, options):
            self._land()  # what was written ahead may be in the burst that is under way
        feed = self.tokenizer.encode(options.feed, special=True, after="\n") if options.feed else ()
        return self.forest.expand(tree, node, n, options, feed)

    def cancel(self, tree: PolicyTree, parent: Node, first: int, n: int) -> list[Node]:
        """Take back a wish: children `first` to `first + n` of a node leave the tree with all below them.

        Returns the nodes that had begun, parents first; their KV is free.
        """
        self._land()
        return self.forest.cancel(tree, parent, first, n)

    def prune(self, tree: PolicyTree, node: Node) -> None:
        """Drop the owner's hold on a node; its KV is freed when no child needs it. A growing step is abandoned."""
        self._land()
        self.forest.prune(tree, node)

    def close(self, tree: PolicyTree) -> None:
        """Free everything a tree holds, also where a burst under way fails. Closing twice is allowed."""
        try:
            self._land()
        finally:
            self.forest.close(tree)

    # --- memory ------------------------------------------------------------------------------------------------

    def pause(self, tree: PolicyTree) -> None:
        """Free the KV of a tree and let its rows wait until `resume`: what it writes stays the same, bit for bit."""
        self._land()
        self.forest.pause(tree)

    def resume(self, tree: PolicyTree) -> None:
        """Let a paused tree go on; the KV that it needs is fed again on the way."""
        self.forest.resume(tree)

    def shed(self, tree: PolicyTree) -> bool:
        """Free the KV of a tree's steps that nothing grows from now; False: there was none."""
        self._land()
        return self.forest.shed(tree)

    # --- the step loop -----------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """True when nothing that was asked for is queued or growing."""
        return self.rows.idle and not (self._flying or self.forest.finished)

    @property
    def load(self) -> RowLoad:
        """The rows of the next iteration."""
        rows = self.rows
        growing = [(item.tree, item.state.node) for item in (*rows.growing, *rows.returning)]
        return RowLoad(rows.max_rows, growing, [(opening.tree, opening.n) for opening in rows.openings])

    @property
    def overlaps(self) -> bool:
        """Whether steps are decoded while other work goes on: on a device of its own, after `begin`."""
        return self.loop is not None

    def begin(self) -> None:
        """Where the device can decode alone, queue a burst without waiting; the next `poll` collects it."""
        if self.loop is None or self._flying or self.rows.needs_host or not self.rows.growing:
            return
        with self.model.backend.stream("policy"):
            self._flying = self._take_off(self.loop)

    def _take_off(self, loop: DecodeLoop) -> tuple[list[Growing], Burst]:
        growing = self.rows.next_growing()
        growing.sort(key=lambda item: self._detector(item.state) is self._flown)  # all detectors have their turn
        self._flown = detector = self._detector(growing[0].state)
        rows = [item for item in growing if self._detector(item.state) is detector]
        self.rows.put_back([item for item in growing if self._detector(item.state) is not detector])
        try:
            return rows, loop.start([self._loop_row(item) for item in rows], detector)
        except OutOfMemory:
            self.rows.put_back(rows)
            if not self.forest.drop_ahead():
                raise
            return self._take_off(loop)

    def poll(self) -> list[tuple[PolicyTree, Node]]:
        """Run one decode iteration, or collect a burst of them, and return the steps that finished."""
        self.begin()
        self._land()
        if self.forest.finished or (self.loop is not None and not self.rows.needs_host):
            finished, self.forest.finished = self.forest.finished, []
            return self._report(finished)
        with self.model.backend.stream("policy"):
            return self._iterate()

    def _iterate(self) -> list[tuple[PolicyTree, Node]]:
        """One decode iteration under the host's eyes: openings are fed, and every row draws a token."""
        growing, openings, returning = self.rows.next_batch(self.forest.ready)
        for item in returning:
            self.forest.place(item.tree, item.state)
        paths = paths_to_feed(openings, returning, self.rows.prefill_rows)
        try:
            hidden, last = self._forward(growing, paths)
        except OutOfMemory:  # nothing was appended: put everything back, so that the caller can free and go on
            self.rows.put_back(growing, openings)
            if not self.forest.drop_ahead():
                raise
            return self._iterate()
        for item in growing:
            item.tree.feed(item.state, 1)
        for tree, state, count in paths:
            tree.feed(state, count)
        self._keep_hidden(paths, last)
        children = self._fork_ready(openings)
        active = growing + children
        whole = [(each.tree, each.parent.node) for each in openings if not (each.n or each.parent.missing)]
        if not active:
            return self._report(whole)
        try:
            draw = partial(self._draw_all, hidden, growing, children)
            drawn = self.model.backend.with_memory(draw, LOWER)
        except OutOfMemory:
            self._take_back(growing, openings)
            raise
        account(active, self.runner.last_bytes_read if growing or paths else 0)
        for item, token in zip(active, drawn, strict=True):
            self._accept(item, token)
        return self._report(whole + self._settle(active))

    def _forward(self, growing: list[Growing], paths: list[Feeding]) -> tuple[Tensor, list[Tensor]]:
        """Hidden states after the last token of the rows that grow, [rows, hidden], and after the tokens of each path.

        OutOfMemory: nothing was appended.
        """
        if not growing and not paths:
            return self._no_rows, []
        feeds = [Feed(item.state.open(self.kv), item.state.tokens[-1:]) for item in growing]
        feeds += [Feed(state.open(self.kv), state.upcoming(count)) for _, state, count in paths]
        told = any(tree.settings.prompt_logprobs is not None for tree, _, _ in paths)
        hidden = self.runner.forward_rows(feeds) if told else self.runner.forward(feeds)
        with self.runner.or_take_back(feeds):
            return self.model.backend.with_memory(partial(self._last_states, hidden, paths), LOWER)

    def _last_states(self, hidden: Tensor | list[Tensor], paths: list[Feeding]) -> tuple[Tensor, list[Tensor]]:
        """hidden: [feeds, hidden], or of every token of each feed where a tree wants to know of its prompt."""
        begin = len(hidden) - len(paths)
        if not isinstance(hidden, Tensor):
            for (tree, state, _), states in zip(paths, hidden[begin:], strict=True):
                if state.parent is None and tree.settings.prompt_logprobs is not None:
                    add_prompt_logprobs(self.sampler, tree, state, self.pool.drawn_from(states))
            hidden = torch.stack([states[-1] for states in hidden])
        return hidden[:begin], [state.clone() for state in hidden[begin:]]  # a view would keep the whole batch alive

    def _draw_all(self, hidden: Tensor, growing: list[Growing], children: list[Growing]) -> list[DrawnToken]:
        """The next token of rows that grow and of new ones; hidden: of the former."""
        states, active = torch.cat([hidden, *(self._parent_state(item) for item in children)]), growing + children
        rows = self.pool.drawn_from(states)
        drawn = self.sampler.draw(rows, [self._draw(item) for item in active])
        add_step_logprobs(self.sampler, [item.state for item in active], rows, [token.id for token in drawn])
        self.pool.add(active, states)
        return drawn

    def _take_back(self, growing: list[Growing], openings: list[Opening]) -> None:
        """Undo an iteration that found no memory to draw; what was fed before new steps is kept."""
        self.kv.take_back([item.state.open(self.kv) for item in growing], [1] * len(growing))
        for item in growing:
            item.tree.feed(item.state, -1)
        self.rows.put_back(growing)
        self.forest.take_back([opening for opening in openings if not opening.parent.missing])

    def _settle(self, rows: list[Growing]) -> list[tuple[PolicyTree, Node]]:
        """Let rows go on where their step does; returns the finished steps that were asked for."""
        self.rows.put_back([item for item in rows if item.state.node.finish is None])
        done = [item for item in rows if item.state.node.finish is not None]
        for item in done:
            self.pool.keep(item.tree, item.state)
            if item.tree.speculates and item.tree.may_go_on(item.state.node):
                alike = replace(item.state.options, feed="")
                ahead = Opening(item.tree, item.state, 0, 1, alike, speculative=True)
                self.rows.ahead.openings.append(ahead)
        return [(item.tree, item.state.node) for item in done if not item.state.speculative]

    def _report(self, done: list[tuple[PolicyTree, Node]]) -> list[tuple[PolicyTree, Node]]:
        """Those that can be told of; where a tap looks behind the last token, others are fed to their end first."""
        waiting = [each for each in done if self.pool.waits(each[0].states[each[1]])]
        for tree, node in waiting:
            self.rows.wish(Opening(tree, tree.states[node], 0, 0, tree.states[node].options))
        told = [each for each in done if each not in waiting]
        for tree, node in told:
            self.pool.look_behind(tree.states[node])
        return told

    def _land(self) -> None:
        """Take in the burst that is under way, if any."""
        if self._flying is None or self.loop is None:
            return
        (growing, burst), self._flying = self._flying, None
        try:
            drawn = self.loop.finish(burst)
        except BaseException:  # as if it had never taken off
            self.rows.put_back(growing)
            raise
        for iteration, slots in enumerate(burst.slots_read):
            active = [item for item, row in zip(growing, drawn, strict=True) if len(row.tokens) > iteration]
            if not active:
                break
            self.runner.count(len(active), slots, burst.slots_unshared, burst.loop.path)
            account(active, self.runner.last_bytes_read)
        for item, row in zip(growing, drawn, strict=True):
            item.tree.feed(item.state, len(row.tokens))
            item.state.sum, item.state.last = row.sum, row.last
            for token in row.tokens:
                self._accept(item, token)
        self.forest.finished += self._settle(growing)

    def _detector(self, state: NodeState) -> StepDetector:
        """What the device has to look for in a growing step."""
        return self.detectors[NOTHING_ENDS] if state.is_young else state.detector

    def _loop_row(self, item: Growing) -> LoopRow:
        state = item.state
        most = state.options.max_tokens
        return LoopRow(
            handle=state.open(self.kv),
            token=state.tokens[-1],
            draw=self._draw(item),
            automaton=self.detectors[NOTHING_ENDS].start if state.is_young else state.automaton,
            generated=state.drawn,
            max_step=min(most, state.options.min_tokens) if state.is_young else most,
            last_position=state.most - 1,
            sum=self.pool.sum_of(state),
        )

    @staticmethod
    def _parent_state(item: Growing) -> Tensor:
        """[1, hidden] after the last token before this step: what its first token is drawn from."""
        assert item.state.parent is not None
        assert item.state.parent.hidden is not None
        return item.state.parent.hidden[None]

    def _keep_hidden(self, paths: list[Feeding], hidden: list[Tensor]) -> None:
        """Remember the hidden state of every node whose last token was just fed, and close the node's KV."""
        for (tree, state, _), last in zip(paths, hidden, strict=True):
            if not state.missing:
                state.hidden = last
                self.forest.seal(tree, state)

    def _fork_ready(self, openings: list[Opening]) -> list[Growing]:
        """Children of every opening whose hidden state is known; the others stay first in the queue."""
        waiting = [opening for opening in openings if opening.parent.missing]
        self.rows.put_back([], waiting)
        ready = [opening for opening in openings if not opening.parent.missing]
        return [child for opening in ready if opening.n for child in self.forest.begin_children(opening)]

    def _draw(self, item: Growing) -> Draw:
        state = item.state
        banned = self._banned(state) if state.is_young else ()
        seen, wanted = item.tree.seen_words(state), state.options.confidence
        top = 0 if wanted is None else wanted.top
        return Draw(state.seed, state.node.lineage, state.end, state.options.sampling, seen, banned, top)

    def _banned(self, state: NodeState) -> list[int]:
        """Words that would end a step that must not end yet."""
        return [word for word in state.detector.ends if word < self.model.config.vocab_size]

    def _accept(self, item: Growing, drawn: DrawnToken) -> None:
        """Add a drawn token to its step, and finish the step if that was its last, or if none could be drawn (NaN)."""
        state, token = item.state, drawn.id
        node = state.node
        node.logprob += drawn.logprob
        if math.isnan(drawn.logprob):
            node.finish = "length"
        else:
            verdict = Verdict.GO
            if state.is_young:
                state.automaton = state.detector.skip(state.automaton, [token])
            else:
                state.automaton, verdict = state.detector.advance(state.automaton, token)
            node.tokens.append(token)
            if node.confidence is not None and drawn.sure is not None:
                node.confidence.add(*drawn.sure)
            if state.seen is not None:
                state.seen.add(token)
            node.finish, node.cut = self._finish(state, verdict)
        if node.finish == "eos":
            node.text, node.stopped_by = state.detector.ending(state.begun, node.tokens)
        elif node.finish is not None:
            node.text = self.tokenizer.decode(node.tokens)
        if node.finish is not None:
            state.seen = None
            node.cost.generated_tokens = state.drawn

    def _finish(self, state: NodeState, verdict: Verdict) -> tuple[FinishReason | None, Cut | None]:
        """Whether the step ends with its last token, why, and by which limit; on a device `step_state` says when."""
        if verdict is Verdict.SOLUTION:
            return "eos", None
        if state.end >= state.most:
            return "length", state.limit
        written, most = state.drawn, state.options.max_tokens
        if verdict is Verdict.STEP or (verdict is Verdict.WAIT and 2 * written >= most):
            return "stop", None
        return ("length", "step_tokens") if written >= most else (None, None)
